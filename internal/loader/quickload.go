package loader

import (
	"bytes"
	"debug/elf"
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
	*kernelTypes
	spec *ebpf.CollectionSpec
	maps map[string]*ebpf.Map // by name
}

// loadQuickly makes the maps of an object and those of its programs that choose names,
// which may ask what the kernel has. read decodes the object and fits it to this machine;
// meanwhile the kernel's types are searched.
func loadQuickly(object []byte, read func() (*ebpf.CollectionSpec, error), options *ebpf.CollectionOptions, choose func(*quickLoader) []string) (*ebpf.Collection, error) {
	var types *kernelTypes
	var typesErr error
	learned := make(chan struct{})
	go func() {
		defer close(learned)
		types, typesErr = learnTypes(object)
	}()
	spec, loaded, err := makeMaps(read, options)
	<-learned
	if err != nil {
		return nil, err
	}
	l := &quickLoader{kernelTypes: types, spec: spec, maps: loaded.Maps}
	if err = typesErr; err == nil {
		err = l.all(choose(l), loaded.Programs)
	}
	if err != nil {
		loaded.Close()
		return nil, err
	}
	return loaded, nil
}

// makeMaps reads an object and makes its maps, and no program.
func makeMaps(read func() (*ebpf.CollectionSpec, error), options *ebpf.CollectionOptions) (*ebpf.CollectionSpec, *ebpf.Collection, error) {
	spec, err := read()
	if err != nil {
		return nil, nil, err
	}
	programs := spec.Programs
	spec.Programs = nil
	loaded, err := ebpf.NewCollectionWithOptions(spec, *options)
	if err != nil {
		return nil, nil, err
	}
	spec.Programs, loaded.Programs = programs, map[string]*ebpf.Program{}
	return spec, loaded, nil
}

// kernelTypes are the few of the kernel's types that an object needs.
type kernelTypes struct {
	types *btf.Spec             // those that its programs look into
	ids   map[attachment]uint32 // of what its programs are attached to, in all of the kernel's types
}

// attachment is the type in the kernel's BTF that stands for what a program is attached to
// (kernel/bpf/verifier.c, bpf_check_attach_target).
type attachment struct {
	kind kerneltypes.Kind
	name string
}

// attachmentOf knows it by the name of the section that a program is in.
func attachmentOf(section string) (a attachment, ok bool) {
	how, to, _ := strings.Cut(section, "/")
	switch how {
	case "tp_btf":
		return attachment{kerneltypes.Typedef, "btf_trace_" + to}, true
	case "iter":
		return attachment{kerneltypes.Func, "bpf_iter_" + to}, true
	case "fentry", "fexit":
		return attachment{kerneltypes.Func, to}, true
	}
	return a, false
}

// learnTypes finds the kernel's types that an object names.
func learnTypes(object []byte) (*kernelTypes, error) {
	names, attached, err := namesOf(object)
	if err != nil {
		return nil, fmt.Errorf("types of the programs: %w", err)
	}
	k := &kernelTypes{ids: map[attachment]uint32{}}
	err = kerneltypes.Kernel(func(b []byte) error { return k.learn(b, names, attached) })
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	return k, nil
}

// namesOf are those of types that an object's programs look into, and of what they are
// attached to.
func namesOf(object []byte) (names []string, attached []attachment, err error) {
	file, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, nil, err
	}
	for _, section := range file.Sections {
		if a, ok := attachmentOf(section.Name); ok {
			names, attached = append(names, a.name), append(attached, a)
		}
	}
	section := file.Section(".BTF")
	if section == nil {
		return nil, nil, errors.New("there are none")
	}
	data, err := section.Data()
	if err != nil {
		return nil, nil, err
	}
	own, err := kerneltypes.Names(data)
	for _, name := range own {
		name, _, _ = strings.Cut(name, "___") // a flavour: Documentation/bpf/libbpf/libbpf_overview.rst
		names = append(names, name)
	}
	return names, attached, err
}

func (k *kernelTypes) learn(b []byte, names []string, attached []attachment) error {
	all, err := kerneltypes.Find(b, names)
	if err != nil {
		return err
	}
	for _, a := range attached {
		if id, ok := all.ID(a.kind, a.name); ok {
			k.ids[a] = id
		}
	}
	few, err := all.Types()
	if err != nil {
		return err
	}
	k.types, err = btf.LoadSpecFromReader(bytes.NewReader(few))
	return err
}

// attachable tells whether what a program is attached to is there, and only once.
func (l *quickLoader) attachable(program string) bool {
	a, ok := attachmentOf(l.spec.Programs[program].SectionName)
	return ok && l.ids[a] != 0
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
	at, _ := attachmentOf(p.SectionName)
	fd, err := l.push(p, l.ids[at])
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
