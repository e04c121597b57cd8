// Command rewriter reads documents of package wire and writes them again: a line "KIND JSON" in, a line of JSON or "error: ..." out. With it
// tests/google/test_wire_twins.py sees whether both languages mean the same by a document.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"sparkles.dev/consume/internal/wire"
)

func rewrite(kind string, data []byte) ([]byte, error) {
	switch kind {
	case "JobDocument":
		return written(wire.Decode[wire.JobDocument](data, kind))
	case "ShardDocument":
		return written(wire.Decode[wire.ShardDocument](data, kind))
	case "WorkerDocument":
		return written(wire.Decode[wire.WorkerDocument](data, kind))
	case "Event":
		return written(wire.Decode[wire.Event](data, kind))
	case "ManifestRow":
		return written(wire.DecodePlain[wire.ManifestRow](data, kind))
	case "Attempt":
		return written(wire.DecodePlain[wire.Attempt](data, kind))
	}
	return nil, fmt.Errorf("there is no kind %q", kind)
}

func written[D any](document D, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return wire.Encode(document), nil
}

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return // the end of what there is
		}
		kind, data, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		out, err := rewrite(string(kind), data)
		if err != nil {
			out = []byte("error: " + strings.ReplaceAll(err.Error(), "\n", " "))
		}
		if _, err := os.Stdout.Write(append(out, '\n')); err != nil {
			return
		}
	}
}
