package bench

import (
	_ "embed"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// Files that WriteDir makes.
const (
	ResultFile    = "result.json"
	HistogramFile = "latency.hgrm" // HdrHistogram's percentile text, in µs
	SeriesFile    = "series.csv"   // one row per interval, latencies in µs
	ReportFile    = "report.html"
)

// About says what made a result, for the report.
type About struct {
	// Command leads to the same run again.
	Command string
	// Version is Quern's; Go and Platform are of the process that measured.
	Version, Go, Platform string
}

//go:embed report.html.tmpl
var reportText string

// WriteDir writes the result, its histogram, its series and a report that
// needs no other file, into a folder that it makes where it is missing.
func (r *Result) WriteDir(dir string, about About) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // for others to read
		return fmt.Errorf("bench: report: %w", err)
	}
	for name, write := range map[string]func(io.Writer) error{
		ResultFile: func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(r)
		},
		HistogramFile: func(w io.Writer) error {
			_, err := r.Histogram.PercentilesPrint(w, 5, float64(time.Microsecond))
			return err
		},
		SeriesFile: r.writeSeries,
		ReportFile: func(w io.Writer) error { return r.writeReport(w, about) },
	} {
		if err := writeFile(filepath.Join(dir, name), write); err != nil {
			return fmt.Errorf("bench: report: %w", err)
		}
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.Create(path) //nolint:gosec // the caller's folder
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	return write(f)
}

func (r *Result) writeSeries(w io.Writer) error {
	c := csv.NewWriter(w)
	rows := [][]string{{"start_s", "ops", "errors", "unknown", "p50_us", "p99_us", "max_us"}}
	for _, p := range r.Series {
		rows = append(rows, []string{
			strconv.FormatFloat(p.Start.Seconds(), 'f', 0, 64),
			strconv.FormatInt(p.Ops, 10), strconv.FormatInt(p.Errors, 10), strconv.FormatInt(p.Unknown, 10),
			microseconds(p.P50), microseconds(p.P99), microseconds(p.Max),
		})
	}
	return c.WriteAll(rows) //nolint:wrapcheck // the caller names the file
}

// writeReport writes the page.
func (r *Result) writeReport(w io.Writer, about About) error {
	t, err := template.New("report").Parse(reportText)
	if err != nil {
		return err //nolint:wrapcheck // a defect; the caller names the file
	}
	return t.Execute(w, struct { //nolint:wrapcheck // the caller names the file
		*Result
		About
		CPUs   int
		Charts []chart
		Rows   []reportRow
	}{r, about, runtime.NumCPU(), r.charts(), r.rows()})
}

// reportRow is a line of the table of numbers.
type reportRow struct{ Name, Value, Note string }

func (r *Result) rows() []reportRow {
	us := func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) + " µs" }
	loop := "closed loop"
	if r.Rate > 0 {
		loop = fmt.Sprintf("open loop, %v due per second", r.Rate)
	}
	l := r.LatencyUS
	rows := []reportRow{
		{"Workload", r.Workload, Describe(r.Workload)},
		{"Target", r.Target, "store " + r.Store},
		{"Load", fmt.Sprintf("%s, %d keys", r.Spread(), r.Keys), string(r.Dist) + ", " + loop},
		{"Duration", fmt.Sprintf("%.2f s", r.DurationS), r.Started.Format(time.RFC3339)},
		{"Done", strconv.FormatInt(r.Ops, 10), fmt.Sprintf("%.0f per second", r.OpsPerSec)},
		{"Errors", strconv.FormatInt(r.Errors, 10), "refused: nothing happened"},
		{"Unknown", strconv.FormatInt(r.Unknown, 10), "perhaps happened"},
		{"Backlog", strconv.FormatInt(r.Backlog, 10), "due and never sent"},
		{"p50", us(l.P50), ""},
		{"p90", us(l.P90), ""},
		{"p99", us(l.P99), ""},
		{"p99.9", us(l.P999), ""},
		{"max", us(l.Max), ""},
	}
	for _, s := range r.Sides() {
		rows = append(rows, reportRow{"CPU and memory of the " + s.Name, s.String(), ""})
	}
	rows = append(rows, []reportRow{
		{"Violations", strconv.FormatInt(r.Violations, 10), "replies that cannot be right"},
		{"Keys not read back", strconv.Itoa(r.Unread), ""},
	}...)
	for _, reason := range slices.Sorted(maps.Keys(r.ErrorsByReason)) {
		rows = append(rows, reportRow{reason, strconv.FormatInt(r.ErrorsByReason[reason], 10), "errors or unknown by reason"})
	}
	return rows
}
