// Command consume is the cloud worker of sparkles: it claims tasks from Datastore, runs them, and stores what they left in Cloud Storage.
// README.md lists its flags and exit codes.
package main

import (
	"fmt"
	"os"

	_ "golang.org/x/crypto/x509roots/fallback" // its own CA roots, for images that have none

	"sparkles.dev/consume/internal/image"
)

// stamp is set by the build (-ldflags "-X main.stamp=sparkles-consume-version=...;"); `consume image` reads it in programs that do not run here.
var stamp string

var version = image.Version(stamp)

const usage = `consume: the cloud worker of sparkles

  consume run FLAGS...            serves one pool (consume run -h lists the flags)
  consume install FOLDER          copies this program to FOLDER/consume, executable
  consume image push|build REF    makes the image that holds it (consume image -h)
  consume version
`

func main() { os.Exit(dispatch(os.Args[1:])) }

func dispatch(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	switch args[0] {
	case "run":
		return supervised(args)
	case "image":
		return makeImage(args[1:])
	case "install":
		return install(args[1:])
	case "version":
		fmt.Println(version)
		return 0
	case "help", "-h", "--help":
		fmt.Print(usage)
		return 0
	}
	fmt.Fprintf(os.Stderr, "consume: unknown command %q\n\n%s", args[0], usage)
	return exitUsage
}
