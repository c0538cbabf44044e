package server

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"rmagent/record"
)

var update = flag.Bool("update", false, "write openapi.json")

// bodies are the types of the answers, by path. Those that are put together of
// records are written out here.
var bodies = map[string]any{
	"GET /v1/history/{resource}":  record.History{},
	"GET /v1/stats":               record.Stats{},
	"GET /v1/jobs":                RunningJobs{},
	"POST /v1/fd/check":           record.FDCheck{},
	"GET /resources/cpu":          CPUNumbers{},
	"GET /resources/memory":       MemoryNumbers{},
	"GET /resources/gpu":          GPUNumbers{},
	"GET /resources/network":      NetworkNumbers{},
	"GET /resources/all":          AllNumbers{},
	"GET /resources/disk":         DiskNumbers{},
	"GET /resources/fd":           FDNumbers{},
	"GET /resources/prune":        PruneNumbers{},
	"GET /healthz":                Health{},
	"GET /openapi.json":           map[string]any{},
	"GET /v1/processes/{pid}":     record.Process{},
	"GET /v1/processes/{pid}/fds": record.Leak{},
	"GET /v1/headroom/{pid}":      record.Headroom{},
	"GET /v1/headroom":            record.HeadroomList{},
	"GET /v1/usage/{resource}":    Usage{},
	"GET /v1/processes": struct {
		Time      time.Time        `json:"time"`
		Interval  float64          `json:"interval_seconds"`
		Processes []record.Process `json:"processes"`
	}{},
	"GET /v1/leaks": struct {
		Time  time.Time     `json:"time"`
		Leaks []record.Leak `json:"leaks"`
	}{},
	"GET /v1/system": struct {
		Time     time.Time            `json:"time"`
		Interval float64              `json:"interval_seconds"`
		System   System               `json:"system"`
		Host     record.Host          `json:"host"`
		GPUs     []record.GPU         `json:"gpus"`
		Cgroups  []record.Cgroup      `json:"cgroups"`
		States   []record.StateChange `json:"states"`
		Agent    record.Agent         `json:"agent"`
	}{},
	"GET /v1/policy": struct {
		Time          time.Time            `json:"time"`
		Configuration map[string]any       `json:"configuration"`
		States        []record.StateChange `json:"states"`
		Prune         *record.Prune        `json:"prune"`
	}{},
}

// schemas makes schemas of Go types. Types with a name become components.
type schemas struct{ doc *openapi3.T }

var timeType = reflect.TypeFor[time.Time]()

func (s *schemas) of(t reflect.Type) *openapi3.SchemaRef {
	switch {
	case t == timeType:
		return openapi3.NewDateTimeSchema().NewRef()
	case t.Kind() == reflect.Pointer:
		return s.nullable(s.of(t.Elem()))
	case strings.HasPrefix(t.Name(), "Opt["):
		get, _ := reflect.PointerTo(t).MethodByName("Get")
		return s.nullable(s.of(get.Type.Out(0)))
	}
	switch t.Kind() {
	case reflect.String:
		return openapi3.NewStringSchema().NewRef()
	case reflect.Bool:
		return openapi3.NewBoolSchema().NewRef()
	case reflect.Float64:
		return openapi3.NewFloat64Schema().NewRef()
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return openapi3.NewIntegerSchema().NewRef()
	case reflect.Slice:
		a := openapi3.NewArraySchema()
		a.Items = s.of(t.Elem())
		a.Nullable = true
		return a.NewRef()
	case reflect.Map:
		o := openapi3.NewObjectSchema()
		o.AdditionalProperties.Schema = s.of(t.Elem())
		o.Nullable = true
		return o.NewRef()
	case reflect.Struct:
		return s.object(t)
	}
	return openapi3.NewSchema().NewRef() // anything
}

func (s *schemas) nullable(r *openapi3.SchemaRef) *openapi3.SchemaRef {
	if r.Ref != "" {
		return (&openapi3.Schema{AllOf: openapi3.SchemaRefs{r}, Nullable: true}).NewRef()
	}
	c := *r.Value
	c.Nullable = true
	return c.NewRef()
}

func (s *schemas) object(t reflect.Type) *openapi3.SchemaRef {
	name := t.Name()
	if name != "" {
		if _, there := s.doc.Components.Schemas[name]; there {
			return openapi3.NewSchemaRef("#/components/schemas/"+name, s.doc.Components.Schemas[name].Value)
		}
	}
	o := openapi3.NewObjectSchema()
	if name != "" {
		s.doc.Components.Schemas[name] = o.NewRef()
	}
	s.fields(o, t)
	if name == "" {
		return o.NewRef()
	}
	return openapi3.NewSchemaRef("#/components/schemas/"+name, o)
}

func (s *schemas) fields(o *openapi3.Schema, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, optional, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && tag == "":
			s.fields(o, f.Type)
		case tag == "" || tag == "-" || !f.IsExported():
		default:
			o.WithPropertyRef(tag, s.of(f.Type))
			if optional != "omitempty" {
				o.Required = append(o.Required, tag)
			}
		}
	}
}

// document makes the OpenAPI document of the routes.
func document(t *testing.T) *openapi3.T {
	doc := &openapi3.T{
		OpenAPI: "3.0.3",
		Info: &openapi3.Info{Title: "rmagent", Version: "1", Description: "What the host agent answers. Paths below /v1 are answered on the agent's unix socket only, " +
			"or where a web configuration asks for TLS and for who the client is. Unknown is null."},
		Paths:      openapi3.NewPaths(),
		Components: &openapi3.Components{Schemas: openapi3.Schemas{}},
		Servers:    openapi3.Servers{{URL: "/"}},
	}
	s := &schemas{doc}
	problem := s.of(reflect.TypeFor[Problem]())
	for i := range routes {
		r := &routes[i]
		op := openapi3.NewOperation()
		op.Summary = r.summary
		op.OperationID = strings.ToLower(r.method) + strings.NewReplacer("/", "_", "{", "", "}", "", ".", "_").Replace(r.path)
		op.Tags = []string{"numbers"}
		if r.private {
			op.Tags = []string{"private"}
		}
		for _, part := range strings.Split(r.path, "/") {
			if name := strings.Trim(part, "{}"); name != part {
				p := openapi3.NewPathParameter(name).WithSchema(openapi3.NewStringSchema())
				if name == "pid" {
					p.Schema = openapi3.NewIntegerSchema().WithMin(1).WithMax(maxPID).NewRef()
				}
				op.AddParameter(p)
			}
		}
		for _, q := range r.query {
			p := openapi3.NewQueryParameter(q.name).WithDescription(q.usage).WithSchema(openapi3.NewStringSchema())
			if q.many {
				p.Schema = openapi3.NewArraySchema().WithItems(openapi3.NewStringSchema()).NewRef()
			}
			op.AddParameter(p)
		}
		good := openapi3.NewResponse().WithDescription("The answer.")
		switch body, known := bodies[r.method+" "+r.path]; {
		case known:
			good.WithContent(openapi3.NewContentWithSchemaRef(s.of(reflect.TypeOf(body)), []string{"application/json"}))
		case r.media != "":
			good.WithContent(openapi3.NewContentWithSchema(openapi3.NewStringSchema(), []string{r.media}))
		case r.status() != http.StatusNoContent:
			t.Errorf("%s %s has no type", r.method, r.path)
		}
		op.Responses = openapi3.NewResponses(openapi3.WithStatus(r.status(), &openapi3.ResponseRef{Value: good}))
		bad := openapi3.NewResponse().WithDescription("What is wrong.").WithContent(openapi3.NewContentWithSchemaRef(problem, []string{"application/problem+json"}))
		op.Responses.Set("default", &openapi3.ResponseRef{Value: bad})
		if r.changes {
			op.RequestBody = requestBody(s, r)
		}
		doc.AddOperation(r.path, r.method, op)
	}
	return doc
}

// requestBody is what a changing route takes.
func requestBody(s *schemas, r *route) *openapi3.RequestBodyRef {
	if r.body == nil {
		return nil
	}
	b := openapi3.NewRequestBody().WithRequired(true).WithContent(openapi3.NewContentWithSchemaRef(s.of(reflect.TypeOf(r.body)), []string{"application/json"}))
	return &openapi3.RequestBodyRef{Value: b}
}

// TestOpenAPI: the document has every route and nothing else, and is one that OpenAPI
// allows.
func TestOpenAPI(t *testing.T) {
	made, err := json.MarshalIndent(document(t), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	made = append(made, '\n')
	if *update {
		if err := os.WriteFile("openapi.json", made, 0o644); err != nil {
			t.Fatal(err)
		}
		openAPIDocument = made
	}
	if !bytes.Equal(made, openAPIDocument) {
		t.Error("openapi.json is not what the routes say; run go generate ./internal/server")
	}
	doc, err := openapi3.NewLoader().LoadFromData(openAPIDocument)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !slices.ContainsFunc(routes, func(r route) bool { return r.path == path && r.method == method }) {
				t.Errorf("%s %s is in the document and is no route", method, path)
			}
		}
	}
}

// What is answered is what the document says.
func TestAnswersAreAsDocumented(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(openAPIDocument)
	if err != nil {
		t.Fatal(err)
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	v := machine(5)
	views := newFake(v)
	leaky(v, views, 2)
	v.Details.Processes[4].Cmdline = nil
	v.Time = time.Now().UTC() // it is well
	v.Prune = &record.Prune{Header: record.Header{Time: someTime}, ShouldPrune: true, Reasons: []record.PruneReason{{Resource: "cpu"}}}
	v.Details.States = []record.StateChange{{Header: record.Header{Time: someTime}, Resource: "fd", Target: "host"}}
	v.Details.Cgroups = []record.Cgroup{{Header: record.Header{Time: someTime}, Path: "/"}}
	v.Details.Agent.Time = someTime
	for i := range v.GPUs {
		v.GPUs[i].Time = someTime
	}
	s := serve(t, views, documented)
	for i := range routes {
		r := &routes[i]
		if r.streams || r.changes {
			continue
		}
		path := strings.NewReplacer("{pid}", "2", "{resource}", "cpu").Replace(r.path)
		q, err := http.NewRequest(r.method, "http://rmagent"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		route, params, err := router.FindRoute(q)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		a := do(t, s.unix, q)
		if a.status >= 400 {
			t.Errorf("%s: status %d: %s", path, a.status, a.body)
		}
		if r.media != "" {
			continue // no JSON
		}
		in := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: &openapi3filter.RequestValidationInput{Request: q, PathParams: params, Route: route},
			Status:                 a.status, Header: a.header,
		}
		in.SetBodyBytes([]byte(a.body))
		if err := openapi3filter.ValidateResponse(t.Context(), in); err != nil {
			t.Errorf("%s %s: %.1500v", r.method, path, err)
		}
	}
}
