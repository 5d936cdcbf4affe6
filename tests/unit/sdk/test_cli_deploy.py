"""What the commands about deployments say."""

from basalt.pb.basalt.v1 import inference_pb2
from tests.support.answering import Answering
from tests.support.terminal import piped

DEPLOY = "basalt.v1.DeploymentService/Deploy"


def test_a_deployment_that_changed_nothing_is_not_claimed(server: Answering) -> None:
    answer = inference_pb2.DeployResponse(already_in_force=True)
    deployment = answer.deployment
    deployment.model, deployment.revision, deployment.changed.by = "tumour", 3, "otto"
    deployment.variants.add(version=2, weight=100)
    deployment.changed.at.FromSeconds(1_770_000_000)
    server.handlers[DEPLOY] = lambda *_: answer
    assert piped("deploy", "put", "tumour", "2", "--reason", "better", TZ="UTC").output == (
        "✓ Revision 3 of tumour was in force already: v2 100 %, by otto at 2026-02-02 02:40:00;"
        " this reason was not recorded.\n"
    )
