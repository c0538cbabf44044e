package loader

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"rmagent/internal/kerneltypes"
)

// quickLoader loads programs without decoding the kernel's types, which takes longer
// than all else: cilium/ebpf wants them whole, for relocations as for what a program is
// attached to. Relocations are still the library's.
type quickLoader struct {
	spec  *ebpf.CollectionSpec
	types *btf.Spec            // those of the kernel that the programs look into
	ids   map[string]uint32    // by program: of what it is attached to, in the kernel's types
	maps  map[string]*ebpf.Map // by name
}

// loadQuickly makes the maps of a spec and those of its programs that choose names, which
// may ask what the kernel has.
func loadQuickly(spec *ebpf.CollectionSpec, env *environment, choose func(*quickLoader) []string) (*ebpf.Collection, error) {
	l, err := learnTypes(spec)
	if err != nil {
		return nil, err
	}
	names := choose(l)
	programs := spec.Programs
	spec.Programs = nil
	loaded, err := ebpf.NewCollectionWithOptions(spec, *env.options())
	if err != nil {
		return nil, err
	}
	spec.Programs, l.maps, loaded.Programs = programs, loaded.Maps, map[string]*ebpf.Program{}
	if err := l.all(names, loaded.Programs); err != nil {
		loaded.Close()
		return nil, err
	}
	return loaded, nil
}

// learnTypes finds the kernel's types that the programs name.
func learnTypes(spec *ebpf.CollectionSpec) (*quickLoader, error) {
	l := &quickLoader{spec: spec, ids: map[string]uint32{}}
	names, err := l.names()
	if err != nil {
		return nil, err
	}
	err = kerneltypes.Kernel(func(b []byte) error { return l.learn(b, names) })
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	return l, nil
}

// names are those of types that the programs look into, and of what they are attached to.
func (l *quickLoader) names() ([]string, error) {
	var names []string
	for t, err := range l.spec.Types.All() {
		if err != nil {
			return nil, fmt.Errorf("types of the programs: %w", err)
		}
		name, _, _ := strings.Cut(t.TypeName(), "___") // a flavour: Documentation/bpf/libbpf/libbpf_overview.rst
		switch t.(type) {
		case *btf.Struct, *btf.Union, *btf.Enum:
			names = append(names, name)
		}
	}
	for _, p := range l.spec.Programs {
		if _, name, ok := attachType(p); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

func (l *quickLoader) learn(b []byte, names []string) error {
	all, err := kerneltypes.Find(b, names)
	if err != nil {
		return err
	}
	for name, p := range l.spec.Programs {
		if kind, of, ok := attachType(p); ok {
			if id, ok := all.ID(kind, of); ok {
				l.ids[name] = id
			}
		}
	}
	few, err := all.Types()
	if err != nil {
		return err
	}
	l.types, err = btf.LoadSpecFromReader(bytes.NewReader(few))
	return err
}

// attachType is the type in the kernel's BTF that stands for what a program is attached
// to (kernel/bpf/verifier.c, bpf_check_attach_target).
func attachType(p *ebpf.ProgramSpec) (kerneltypes.Kind, string, bool) {
	switch p.AttachType {
	case ebpf.AttachTraceRawTp:
		return kerneltypes.Typedef, "btf_trace_" + p.AttachTo, true
	case ebpf.AttachTraceIter:
		return kerneltypes.Func, "bpf_iter_" + p.AttachTo, true
	case ebpf.AttachTraceFEntry, ebpf.AttachTraceFExit:
		return kerneltypes.Func, p.AttachTo, true
	}
	return 0, "", false
}

// attachable tells whether what a program is attached to is there, and only once.
func (l *quickLoader) attachable(program string) bool {
	_, ok := l.ids[program]
	return ok
}

// all loads programs, as many at once as there are CPUs: the kernel verifies each by
// itself.
func (l *quickLoader) all(names []string, into map[string]*ebpf.Program) error {
	loaded, errs := make([]*ebpf.Program, len(names)), make([]error, len(names))
	var wait sync.WaitGroup
	for i, name := range names {
		wait.Go(func() { loaded[i], errs[i] = l.one(name) })
	}
	wait.Wait()
	for i, name := range names {
		if loaded[i] != nil {
			into[name] = loaded[i]
		}
	}
	return errors.Join(errs...)
}

func (l *quickLoader) one(name string) (*ebpf.Program, error) {
	p, err := l.withMaps(name)
	if err != nil {
		return nil, err
	}
	fd, err := l.push(p, l.ids[name])
	if err != nil {
		// The library takes its time, and says at which instruction what was wrong.
		program, err := ebpf.NewProgramWithOptions(p, ebpf.ProgramOptions{KernelTypes: l.types})
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		return program, nil
	}
	program, err := ebpf.NewProgramFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", name, err)
	}
	return program, nil
}

// withMaps returns a copy of a program that knows its maps.
func (l *quickLoader) withMaps(name string) (*ebpf.ProgramSpec, error) {
	p := l.spec.Programs[name].Copy()
	for i := range p.Instructions {
		ins := &p.Instructions[i]
		if !ins.IsLoadFromMap() || ins.Reference() == "" {
			continue
		}
		if err := ins.AssociateMap(l.maps[ins.Reference()]); err != nil {
			return nil, fmt.Errorf("program %s: map %s: %w", name, ins.Reference(), err)
		}
	}
	return p, nil
}

// push hands a program to the kernel.
func (l *quickLoader) push(p *ebpf.ProgramSpec, attachTo uint32) (fd int, err error) {
	var types btf.Builder
	insns, err := l.relocate(p.Instructions, &types)
	if err != nil {
		return -1, err
	}
	funcs, _, err := btf.MarshalExtInfos(insns, &types) // bpf_loop wants to know its callback's type
	if err != nil {
		return -1, err
	}
	own, err := btf.NewHandle(&types)
	if err != nil {
		return -1, err
	}
	defer own.Close()
	var code bytes.Buffer
	if err := insns.Marshal(&code, l.spec.ByteOrder); err != nil {
		return -1, err
	}
	return loadProgram(&progLoadAttr{
		progType: uint32(p.Type), attachType: uint32(p.AttachType), flags: p.Flags, attachBTFID: attachTo,
		btfFD: uint32(own.FD()), funcInfoSize: btf.FuncInfoSize,
	}, p.Name, p.License, code.Bytes(), funcs)
}

// relocate returns instructions that fit this kernel.
func (l *quickLoader) relocate(original asm.Instructions, types *btf.Builder) (asm.Instructions, error) {
	insns := slices.Clone(original)
	var relocations []*btf.CORERelocation
	var at []*asm.Instruction
	for i := range insns {
		if r := btf.CORERelocationMetadata(&insns[i]); r != nil {
			relocations, at = append(relocations, r), append(at, &insns[i])
		}
	}
	fixups, err := btf.CORERelocate(relocations, []*btf.Spec{l.types}, l.spec.ByteOrder, types.Add)
	if err != nil {
		return nil, err
	}
	for i, f := range fixups {
		if err := f.Apply(at[i]); err != nil {
			return nil, err
		}
	}
	return insns, nil
}
