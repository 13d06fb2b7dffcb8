package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the files in testdata")

// A report of a short run whose failures need escaping.
func reported(t *testing.T, sabotage func(*Result)) (dir string) {
	t.Helper()
	r := bubbled(t, newFake(), time.Millisecond, Config{
		TargetName: "<b>&", Store: "memory", Run: "r", Workload: "counter-add", Duration: 3 * time.Second, Concurrency: 2, Keys: 10, Seed: 1,
	})
	sabotage(r)
	dir = filepath.Join(t.TempDir(), "out")
	if err := r.WriteDir(dir, About{Command: "quern bench run --prefix '<'", Version: "v0 & more"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReportIsWellFormed(t *testing.T) {
	for name, sabotage := range map[string]func(*Result){
		"clean":   func(*Result) {},
		"failed":  func(r *Result) { r.Lost, r.Examples, r.Notes = 3, []string{"<script>"}, []string{"a < b"} },
		"short":   func(r *Result) { r.Series = r.Series[:1] },
		"nothing": func(r *Result) { r.Series = nil; r.Histogram.Reset() },
		"stalled": func(r *Result) { r.Series[1] = Point{Start: time.Second} },
		"silent":  func(r *Result) { r.Series = []Point{{}, {Start: time.Second}} },
	} {
		t.Run(name, func(t *testing.T) {
			page := read(t, reported(t, sabotage), ReportFile)
			d := xml.NewDecoder(strings.NewReader(page))
			d.Entity = xml.HTMLEntity
			for {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%v", err)
				}
			}
			for _, bad := range []string{"NaN", "Inf", "<script>", "<b>&", "ZgotmplZ"} {
				if strings.Contains(page, bad) {
					t.Errorf("the page contains %q", bad)
				}
			}
			for _, outside := range []string{"src=", "href=", "@import", "url("} {
				if strings.Contains(page, outside) {
					t.Errorf("the page needs something else: %q", outside)
				}
			}
			if want := map[string]int{"nothing": 1, "short": 1, "silent": 2}[name]; want != 0 && strings.Count(page, "<svg") != want {
				t.Errorf("%d plots, want %d", strings.Count(page, "<svg"), want)
			}
		})
	}
}

func TestResultFilesAreAsPromised(t *testing.T) {
	dir := reported(t, func(r *Result) {
		r.Started, r.CPUSeconds, r.RSSBytes = time.Unix(0, 0).UTC(), 1.5, 1<<20
	})
	for _, name := range []string{ResultFile, SeriesFile, HistogramFile} {
		golden, got := filepath.Join("testdata", name), []byte(read(t, dir, name))
		if *rewrite {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s changed:\n%s", name, got)
		}
	}
}

// The contract's names, all of them, whatever the result.
func TestResultHasTheContractsFields(t *testing.T) {
	text, err := json.Marshal(new(Result))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq("target workload store duration_s concurrency pipeline keys ops errors unknown ops_per_sec " +
		"latency_us acked applied lost doubled cpu_s rss_bytes target_cpu_s target_rss_bytes") {
		if _, ok := got[name]; !ok {
			t.Errorf("no %q in %s", name, text)
		}
	}
	latency, _ := got["latency_us"].(map[string]any)
	for _, name := range []string{"p50", "p90", "p99", "p999", "max"} {
		if _, ok := latency[name]; !ok {
			t.Errorf("no latency %q in %s", name, text)
		}
	}
}
