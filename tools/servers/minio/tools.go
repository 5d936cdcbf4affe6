//go:build tools

// Package tools names MinIO's command as what this module is for, so that go.sum pins it and
// everything it is built from.
package tools

import _ "github.com/minio/minio"
