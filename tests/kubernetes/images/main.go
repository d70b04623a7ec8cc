// Writes a container image as a tar in OCI layout, to be loaded with `ctr images import`: no registry is needed.
//
//	images NAME ROOT FILE
//
// ROOT is the folder that becomes the image's only layer. The same ROOT gives the same bytes.
package main

import (
	"fmt"
	"os"
	"slices"
)

// What an archive holds: the same layer under each of these references, those that the tests of Kubernetes 1.36 ask for and
// those of 1.37.
var archives = map[string][]Image{
	"agnhost": agnhost,
	"pause":   {{Reference: "registry.k8s.io/pause:3.10.2", Entrypoint: []string{"/agnhost", "pause"}}},
	"coredns": {{Reference: "registry.k8s.io/coredns/coredns:v1.15.0", Entrypoint: []string{"/coredns"}}},
	"e2e": slices.Concat(
		agnhost,
		of([]string{"sh"}, nil,
			"e2e-test-images/busybox:1.37.0-1", "e2e-test-images/busybox:1.37.0-2",
			"e2e-test-images/glibc-dns-testing:2.0.0", "e2e-test-images/glibc-dns-testing:2.1.1",
			// For the conntrack program.
			"build-image/distroless-iptables:v0.9.6", "build-image/distroless-iptables:v0.9.9"),
		of(nil, []string{"/regression-issue-74839"},
			"e2e-test-images/regression-issue-74839:1.4", "e2e-test-images/regression-issue-74839:1.5"),
		// Where it is wanted, nobody asks it for more than an address.
		of([]string{"netexec", "--http-port=80"}, []string{"/agnhost"},
			"e2e-test-images/nginx:1.15-4", "e2e-test-images/nginx:1.27.0-2"),
	),
}

var agnhost = of([]string{"pause"}, []string{"/agnhost"}, "e2e-test-images/agnhost:2.63.0", "e2e-test-images/agnhost:2.66.1")

// One image under each of the names, which are those of upstream's registry.
func of(cmd, entrypoint []string, names ...string) (images []Image) {
	for _, name := range names {
		images = append(images, Image{Reference: "registry.k8s.io/" + name, Entrypoint: entrypoint, Cmd: cmd})
	}
	return images
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
