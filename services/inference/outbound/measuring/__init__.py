"""The program that looks into an ONNX file and runs it on evaluation rows."""

PROGRAM = __name__
