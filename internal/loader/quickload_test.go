package loader

import (
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// TestQuickLoadFitsLikeTheLibrary relocates every program of jobs with the few types
// that were found, and with all of the kernel's.
func TestQuickLoadFitsLikeTheLibrary(t *testing.T) {
	spec, err := loadJobs()
	if err != nil {
		t.Fatal(err)
	}
	l, err := learnTypes(_JobsBytes)
	if err != nil {
		t.Skip(err)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for name, p := range spec.Programs {
		var relocations []*btf.CORERelocation
		for i := range p.Instructions {
			if r := btf.CORERelocationMetadata(&p.Instructions[i]); r != nil {
				relocations = append(relocations, r)
			}
		}
		seen += len(relocations)
		fit := func(types *btf.Spec) []btf.COREFixup {
			var b btf.Builder
			fixups, err := btf.CORERelocate(relocations, []*btf.Spec{types}, spec.ByteOrder, b.Add)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return fixups
		}
		quick, whole := fit(l.types), fit(kernel)
		for i := range whole {
			if quick[i] != whole[i] {
				t.Errorf("%s: %v: %v, the library %v", name, relocations[i], &quick[i], &whole[i])
			}
		}
		at, attached := attachmentOf(p.SectionName)
		if p.AttachTo != "" && !attached {
			t.Errorf("%s: nobody knows what it is attached to", p.SectionName)
		}
		if id := l.ids[at]; id != 0 {
			typ, err := kernel.TypeByID(btf.TypeID(id))
			if err != nil || typ.TypeName() != at.name {
				t.Errorf("%s is attached to %v (kind %d), want %s: %v", name, typ, at.kind, at.name, err)
			}
		}
	}
	if seen < 100 {
		t.Errorf("%d relocations compared: there should be more", seen)
	}
}

// TestQuickLoadNeedsNoLibrary loads the programs of jobs for this kernel without the
// fallback.
func TestQuickLoadNeedsNoLibrary(t *testing.T) {
	env, err := tracingEnvironment("jobs")
	if err != nil {
		t.Skip(err)
	}
	types, err := learnTypes(_JobsBytes)
	if err != nil {
		t.Fatal(err)
	}
	spec, loaded, err := makeMaps(func() (*ebpf.CollectionSpec, error) {
		spec, err := loadJobs()
		return spec, errors.Join(err, env.configure(spec))
	}, env.options())
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	l := &quickLoader{kernelTypes: types, spec: spec, maps: loaded.Maps}
	names := (&Jobs{}).choose(l)
	for _, name := range names {
		p, err := l.withMaps(name)
		if err != nil {
			t.Error(err)
			continue
		}
		at, _ := attachmentOf(p.SectionName)
		fd, err := l.push(p, l.ids[at])
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		unix.Close(fd)
	}
}

// TestARefusedProgramIsExplained loads what the verifier refuses.
func TestARefusedProgramIsExplained(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loading programs needs root")
	}
	spec, err := loadJobs()
	if err != nil {
		t.Fatal(err)
	}
	wrong := spec.Programs[jobsProgLearnJobs]
	wrong.Instructions = asm.Instructions{asm.LoadMem(asm.R0, asm.R9, 0, asm.DWord), asm.Return()}
	types, err := learnTypes(_JobsBytes)
	if err != nil {
		t.Skip(err)
	}
	l := &quickLoader{kernelTypes: types, spec: spec}
	_, err = l.one(jobsProgLearnJobs)
	var verifier *ebpf.VerifierError
	if !errors.As(err, &verifier) {
		t.Errorf("%v, want the verifier's reason", err)
	}
}
