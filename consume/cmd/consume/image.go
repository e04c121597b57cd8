package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"sparkles.dev/consume/internal/image"
)

const imageUsage = `consume image: the worker's image, made without Docker: this program and its builds for other platforms beside it

  consume image push REF               pushes it
  consume image build [-o FILE] REF    writes it to a file: an OCI layout in a tar archive (default consume-VERSION.tar)

REF is REGISTRY/REPOSITORY[:TAG]; the tag is this program's version unless given. Printed is REF@DIGEST, for settings.

  make consume consume-all && consume/bin/consume image push europe-docker.pkg.dev/my-project/sparkles/consume
`

// makeImage is `consume image`.
func makeImage(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, imageUsage)
		return exitUsage
	}
	switch args[0] {
	case "push", "build":
	case "-h", "--help", "help":
		fmt.Print(imageUsage)
		return exitDrained
	default:
		fmt.Fprintf(os.Stderr, "consume image: expected push or build, found %q\n\n%s", args[0], imageUsage)
		return exitUsage
	}
	flags := flag.NewFlagSet("consume image "+args[0], flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, imageUsage) }
	output := "consume-" + version + ".tar"
	if args[0] == "build" {
		flags.StringVar(&output, "o", output, "`file` to write")
	}
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDrained
		}
		return exitUsage
	}
	give := func(err error, code int) int {
		fmt.Fprintf(os.Stderr, "%s: %v\n", flags.Name(), err)
		return code
	}
	if flags.NArg() != 1 {
		fmt.Fprintf(os.Stderr, "%s: expected one REF after the flags, found %d arguments\n", flags.Name(), flags.NArg())
		return exitUsage
	}
	tag, err := image.Reference(flags.Arg(0), version)
	if err != nil {
		return give(err, exitUsage)
	}
	own, err := os.Executable()
	if err != nil {
		return give(err, exitConfiguration)
	}
	programs, err := image.Find(own, version)
	if err != nil {
		return give(err, exitConfiguration)
	}
	index, err := image.Make(programs)
	if err != nil {
		return give(err, exitBug)
	}
	pinned, err := image.Pinned(tag, index)
	if err != nil {
		return give(err, exitBug)
	}
	if args[0] == "build" {
		err = image.Archive(output, tag, index)
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = image.Push(ctx, tag, index, "consume/"+version)
	}
	if err != nil {
		if errors.Is(err, context.Canceled) {
			fmt.Fprintf(os.Stderr, "%s: stopped: the tag is as it was\n", flags.Name())
			return exitTerminated
		}
		var refused *image.Refused
		var path *fs.PathError
		if errors.As(err, &refused) || errors.As(err, &path) {
			return give(err, exitConfiguration)
		}
		return give(err, exitTransient)
	}
	var platforms []string
	for _, each := range programs {
		platforms = append(platforms, "linux/"+each.Architecture)
	}
	fmt.Fprintf(os.Stderr, "consume %s for %s\n", version, strings.Join(platforms, ", "))
	fmt.Println(pinned)
	return exitDrained
}
