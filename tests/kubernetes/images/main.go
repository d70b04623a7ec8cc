// Writes a container image as a tar in OCI layout, to be loaded with `ctr images import`: no registry is needed.
//
//	images NAME ROOT FILE
//
// ROOT is the folder that becomes the image's only layer. The same ROOT gives the same bytes.
package main

import (
	"fmt"
	"os"
)

// What an archive holds: the same layer under each of these references.
var archives = map[string][]Image{
	"agnhost": {agnhost},
	"pause":   {{Reference: "registry.k8s.io/pause:3.10.2", Entrypoint: []string{"/agnhost", "pause"}}},
	"coredns": {{Reference: "registry.k8s.io/coredns/coredns:v1.15.0", Entrypoint: []string{"/coredns"}}},
	"e2e": {
		agnhost,
		{Reference: "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", Cmd: []string{"sh"}},
		{Reference: "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0", Cmd: []string{"sh"}},
		{
			Reference:  "registry.k8s.io/e2e-test-images/regression-issue-74839:1.4",
			Entrypoint: []string{"/regression-issue-74839"},
		},
		// For the conntrack program.
		{Reference: "registry.k8s.io/build-image/distroless-iptables:v0.9.6", Cmd: []string{"sh"}},
		// Where it is wanted, nobody asks it for more than an address.
		{Reference: "registry.k8s.io/e2e-test-images/nginx:1.15-4", Entrypoint: []string{"/agnhost"}, Cmd: []string{"netexec", "--http-port=80"}},
	},
}

var agnhost = Image{
	Reference:  "registry.k8s.io/e2e-test-images/agnhost:2.63.0",
	Entrypoint: []string{"/agnhost"},
	Cmd:        []string{"pause"},
}

func main() {
	if len(os.Args) != 4 || archives[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: images NAME ROOT FILE")
		os.Exit(2)
	}
	if err := write(archives[os.Args[1]], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintf(os.Stderr, "making the image %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func write(images []Image, root, path string) error {
	layer, err := Layer(root)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := Archive(file, layer, images); err != nil {
		return err
	}
	return file.Close()
}
