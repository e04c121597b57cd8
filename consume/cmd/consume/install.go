package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// install copies this program into a folder, whole or not at all, so that an init container can hand it to another image.
func install(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "consume install: expected one folder")
		return exitUsage
	}
	if err := copySelf(filepath.Join(args[0], "consume")); err != nil {
		fmt.Fprintf(os.Stderr, "consume install: %v\n", err)
		return exitConfiguration
	}
	return 0
}

func copySelf(target string) error {
	own, err := os.Executable()
	if err != nil {
		return err
	}
	source, err := os.Open(own)
	if err != nil {
		return err
	}
	defer source.Close()
	temporary := target + ".part"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, source)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Chmod(temporary, 0o555)
	}
	if err == nil {
		err = os.Rename(temporary, target)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}
