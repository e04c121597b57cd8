package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// Program is a build of consume for Linux.
type Program struct {
	Path         string
	Architecture string // as Go and OCI name it
	Version      string
	Data         []byte
}

var architectures = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// stamp is what the build puts into main.stamp. [n] is so that this pattern is not found in the program that holds it.
var stamp = regexp.MustCompile(`sparkles-consume-versio[n]=([0-9A-Za-z.+-]+);`)

// Version is what a stamp says; "development" where there is none.
func Version(text string) string {
	if found := stamp.FindStringSubmatch(text); found != nil {
		return found[1]
	}
	return "development"
}

// errForeign says that a program is not for Linux: it can make images all the same.
var errForeign = errors.New("it is for another system")

// Find gives the programs for an image that is made by the program at own: that one, where it runs on Linux, and those beside it that
// `consume/build ARCHITECTURE...` made for other platforms. All are of the version given: a worker of another one that was left there is refused.
func Find(own, version string) ([]Program, error) {
	var found []Program
	if program, err := Load(own); err == nil {
		found = append(found, program)
	} else if !errors.Is(err, errForeign) {
		return nil, err
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		if slices.ContainsFunc(found, func(each Program) bool { return each.Architecture == architecture }) {
			continue
		}
		path := filepath.Join(filepath.Dir(own), "consume-linux-"+architecture)
		program, err := Load(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && program.Architecture != architecture {
			err = fmt.Errorf("%s: expected a program for linux/%s, found one for linux/%s", path, architecture, program.Architecture)
		}
		if err != nil {
			return nil, err
		}
		found = append(found, program)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s holds no program for Linux (expected consume-linux-amd64 or consume-linux-arm64 there); make them: consume/build amd64 arm64",
			filepath.Dir(own))
	}
	for _, each := range found {
		if each.Version != version {
			return nil, fmt.Errorf("%s: expected version %s, found %s; make it anew: consume/build %s", each.Path, version, each.Version, each.Architecture)
		}
	}
	slices.SortFunc(found, func(a, b Program) int { return bytes.Compare([]byte(a.Architecture), []byte(b.Architecture)) })
	return found, nil
}

// Load reads a program, which must be one that runs where nothing else is: statically linked, for a platform that is known.
func Load(path string) (Program, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Program{}, err
	}
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return Program{}, fmt.Errorf("%s: expected a program for Linux: %w", path, errForeign)
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return Program{}, fmt.Errorf("%s: expected a program for Linux: %w", path, err)
	}
	architecture, known := architectures[file.Machine]
	if !known {
		return Program{}, fmt.Errorf("%s: expected a program for linux/amd64 or linux/arm64, found one for %s", path, file.Machine)
	}
	if why := needs(file); why != "" {
		return Program{}, fmt.Errorf("%s: expected a program that is linked statically, found one that needs %s; make it with consume/build", path, why)
	}
	return Program{Path: path, Architecture: architecture, Version: Version(string(data)), Data: data}, nil
}

// needs is what a program wants to find beside it, or "".
func needs(file *elf.File) string {
	for _, segment := range file.Progs {
		switch segment.Type {
		case elf.PT_INTERP:
			return "a program interpreter"
		case elf.PT_DYNAMIC:
			return "shared libraries"
		}
	}
	return ""
}
