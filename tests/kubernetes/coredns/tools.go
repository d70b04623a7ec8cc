//go:build tools

// Package coredns pins CoreDNS, apart from Kubernetes because the two want different versions of the same modules.
package coredns

import _ "github.com/coredns/coredns"
