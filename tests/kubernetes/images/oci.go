package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Image is a reference and what it runs, the configuration of OCI image-spec v1.1.
type Image struct {
	Reference  string
	Entrypoint []string
	Cmd        []string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type config struct {
	Architecture string  `json:"architecture"`
	OS           string  `json:"os"`
	Config       process `json:"config"`
	RootFS       rootfs  `json:"rootfs"`
}

type process struct {
	Env        []string
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	WorkingDir string
}

type rootfs struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

const (
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
)

// Archive writes an OCI layout in which every image has this one layer.
func Archive(to io.Writer, layer []byte, images []Image) error {
	out := &archive{tar: tar.NewWriter(to), written: map[string]bool{}}
	blob := out.blob(typeLayer, layer)
	all := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, image := range images {
		entry := out.json(typeManifest, manifest{
			SchemaVersion: 2,
			MediaType:     typeManifest,
			Config:        out.json(typeConfig, configOf(image, blob)),
			Layers:        []descriptor{blob},
		})
		entry.Annotations = map[string]string{"io.containerd.image.name": image.Reference}
		all.Manifests = append(all.Manifests, entry)
	}
	out.file("index.json", encode(all))
	out.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if out.err != nil {
		return out.err
	}
	return out.tar.Close()
}

func configOf(image Image, layer descriptor) config {
	return config{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: process{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"},
			Entrypoint: image.Entrypoint,
			Cmd:        image.Cmd,
			WorkingDir: "/",
		},
		RootFS: rootfs{Type: "layers", DiffIDs: []string{layer.Digest}},
	}
}

// archive is a tar being written; the first error stays.
type archive struct {
	tar     *tar.Writer
	written map[string]bool
	err     error
}

func (a *archive) json(mediaType string, value any) descriptor {
	return a.blob(mediaType, encode(value))
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	if !a.written[digest] {
		a.written[digest] = true
		a.file("blobs/sha256/"+digest, content)
	}
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(content)}
}

func (a *archive) file(name string, content []byte) {
	if a.err != nil {
		return
	}
	header := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}
	if a.err = a.tar.WriteHeader(&header); a.err == nil {
		_, a.err = a.tar.Write(content)
	}
}

func encode(value any) []byte {
	content, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("a struct of strings and numbers does not encode: %v", err))
	}
	return content
}

// Layer returns a folder as a tar: sorted, everything root's and of 1970, with a /tmp that anybody can write to.
func Layer(root string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Join(root, "tmp"), 0o755); err != nil {
		return nil, err
	}
	var content bytes.Buffer
	out := tar.NewWriter(&content)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		return add(out, root, path, entry)
	})
	if err != nil {
		return nil, err
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}

func add(out *tar.Writer, root, path string, entry fs.DirEntry) error {
	name, err := filepath.Rel(root, path)
	if err != nil {
		return err
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	header := tar.Header{Name: name, Mode: 0o644}
	switch {
	case name == "tmp":
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, "tmp/", 0o1777
	case info.IsDir():
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, name+"/", 0o755
	case info.Mode().Type() == fs.ModeSymlink:
		header.Typeflag, header.Mode = tar.TypeSymlink, 0o777
		if header.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	case info.Mode().IsRegular():
		header.Typeflag, header.Size = tar.TypeReg, info.Size()
		if info.Mode()&0o111 != 0 {
			header.Mode = 0o755
		}
	default:
		return fmt.Errorf("%s is neither a file nor a folder nor a link", path)
	}
	if err := out.WriteHeader(&header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(out, file)
	return err
}
