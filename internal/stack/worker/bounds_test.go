package worker

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"rmagent/internal/sample"
	"rmagent/internal/stack"
	"rmagent/record"
)

// Stacks that a program made up cost the agent no more memory than was set aside for them,
// and give it back when the program ends.
func TestMadeUpStacksAreBounded(t *testing.T) {
	c := &Client{images: map[Image]*imageState{}}
	images := make([]*imageState, 8)
	for i := range images {
		images[i] = c.image(Image{ID: sample.ID{PID: int32(1 + i)}})
	}
	const frames, long = 1024, 4096
	made, refused := 0, 0
	for n := range uint64(1000) {
		a := &answer{Frames: make([]record.Frame, frames), Key: binary.LittleEndian.AppendUint64(nil, n)}
		for i := range a.Frames {
			a.Frames[i].Function = record.Some(strings.Repeat("f", long))
		}
		for i := range uint64(stack.MaxDeps) {
			a.Deps = append(a.Deps, stack.Dep{Place: stack.Place(8 * i), Condition: stack.Equals, Value: n})
		}
		if site := c.remember(images[n%8], a); site.Frames == nil {
			refused++
		} else {
			made++
		}
		if c.nodes > maxNodes+stack.MaxDeps {
			t.Fatalf("%d nodes after %d walks", c.nodes, n+1)
		}
	}
	if bytes := made * frames * long; bytes > maxSiteBytes || bytes < maxSiteBytes/2 {
		t.Errorf("%d bytes of names are kept, of %d", bytes, maxSiteBytes)
	}
	if refused == 0 {
		t.Error("no stack was one too many")
	}
	for i := range images {
		c.Forget(sample.ID{PID: int32(1 + i)})
	}
	if c.sites != 0 || c.siteBytes != 0 || c.nodes != 0 {
		t.Errorf("all are forgotten, and %d sites, %d bytes and %d nodes are left", c.sites, c.siteBytes, c.nodes)
	}
}

// Sites without frames are bounded, too: a child may give any reasons.
func TestReasonsAreBounded(t *testing.T) {
	c := &Client{images: map[Image]*imageState{}}
	im := c.image(Image{ID: sample.ID{PID: 1}})
	long := strings.Repeat("why", 10_000)
	for n := range 2 * maxSiteBytes / len(long) {
		c.fail(im, fmt.Sprint(n, long))
	}
	if kept := len(im.sites) * len(long); kept > maxSiteBytes+len(long) || kept < maxSiteBytes/2 {
		t.Errorf("%d bytes of reasons are kept", kept)
	}
}

// The words of a walk are told of the site that the stack was told to be from, not of one that
// it leads to since other code was mapped.
func TestWordsAreOfTheSiteThatWasTold(t *testing.T) {
	c := &Client{images: map[Image]*imageState{}}
	image := Image{ID: sample.ID{PID: 1}}
	im := c.image(image)
	raw := sample.RawStack{Registers: sample.Registers{IP: 1}}
	deps := []stack.Dep{{Place: -1, Condition: stack.Equals, Value: 1}}
	before := c.remember(im, &answer{Key: []byte("before"), Deps: deps})
	if words, _, ok := c.Words(image, &raw, before, nil); !ok || len(words) != 1 {
		t.Errorf("the words of a walk are %v, %v", words, ok)
	}
	c.reset(im)
	after := c.remember(im, &answer{Key: []byte("after"), Deps: deps})
	if words, _, ok := c.Words(image, &raw, before, nil); ok {
		t.Errorf("%v are told of a site that they don't lead to any more", words)
	}
	if _, epoch, ok := c.Words(image, &raw, after, nil); !ok || epoch != c.Epoch(image) {
		t.Errorf("words of epoch %d, now is %d: %v", epoch, c.Epoch(image), ok)
	}
}
