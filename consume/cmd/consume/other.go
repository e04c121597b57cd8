//go:build !linux

package main

import (
	"fmt"
	"os"
	"runtime"
)

// supervised says that there is no `consume run` here: it needs process groups, subreapers and /proc as Linux has them.
func supervised([]string) int {
	fmt.Fprintf(os.Stderr, "consume run: workers run on Linux only, and this is %s\n", runtime.GOOS)
	return exitConfiguration
}
