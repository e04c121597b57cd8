package runner

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestTheControlGroupOfAMachine plays tests/golden/cgroups.json, as tests/unit/test_cgroup.py does.
func TestTheControlGroupOfAMachine(t *testing.T) {
	data, err := os.ReadFile("../../../tests/golden/cgroups.json")
	if err != nil {
		t.Fatal(err)
	}
	var machines []struct {
		Name     string
		Files    map[string]string
		Expected *struct {
			Version int
			Folder  string
			Kills   *int64
			Limit   int64
			Peak    int64
		}
	}
	if err := json.Unmarshal(data, &machines); err != nil || len(machines) == 0 {
		t.Fatalf("%d machines, %v", len(machines), err)
	}
	for _, machine := range machines {
		t.Run(machine.Name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range machine.Files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			group, want := findCgroup(root), machine.Expected
			if group == nil || want == nil {
				if group != nil || want != nil {
					t.Fatalf("got %+v, want %+v", group, want)
				}
				return
			}
			if folder := filepath.Join(root, want.Folder); group.Version != want.Version || group.Folder != folder {
				t.Errorf("got version %d in %s, want %d in %s", group.Version, group.Folder, want.Version, folder)
			}
			if kills, found := group.OOMKills(); found != (want.Kills != nil) || found && kills != *want.Kills {
				t.Errorf("kills: got %d, %v, want %v", kills, found, want.Kills)
			}
			if limit, peak := group.Limit(), group.Peak(); limit != want.Limit || peak != want.Peak {
				t.Errorf("got limit %d and peak %d, want %d and %d", limit, peak, want.Limit, want.Peak)
			}
		})
	}
}

func TestTheMachinesMemoryIsNoMoreThanItHas(t *testing.T) {
	total, found := counter("/proc/meminfo", "MemTotal:")
	if memory := MachineMemory(); !found || memory <= 0 || memory > total*1024 {
		t.Errorf("got %d, the machine has %d kB", memory, total)
	}
}
