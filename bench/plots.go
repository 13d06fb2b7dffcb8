package bench

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Size of a plot in the report, which scales it to the page.
const (
	plotWidth  = 7.2 * vg.Inch
	plotHeight = 3 * vg.Inch
)

// Colours of the lines: seen on white and on black, and told apart by those
// who do not see red and green (Okabe and Ito).
var (
	blue   = color.RGBA{R: 0, G: 114, B: 178, A: 255}
	orange = color.RGBA{R: 230, G: 159, B: 0, A: 255}
	purple = color.RGBA{R: 204, G: 121, B: 167, A: 255}
	grid   = color.NRGBA{R: 128, G: 128, B: 128, A: 90}
)

// maxAxis ends axes: more microseconds than any histogram here holds.
const maxAxis = 1e12

// line is one curve of a plot.
type line struct {
	name  string
	color color.Color
	xy    plotter.XYs
}

// chart is a plot before it is drawn.
type chart struct {
	Title  string
	x, y   string
	ticksX plot.Ticker // nil for plain numbers
	logY   bool
	lines  []line
}

// plotted builds the plot.
func (c chart) plotted() (*plot.Plot, error) {
	p := plot.New()
	p.BackgroundColor = nil // the page's
	p.X.Label.Text, p.Y.Label.Text = c.x, c.y
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	for _, style := range []*font.Font{
		&p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font,
		&p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		*style = font.From(sans, 9)
	}
	if c.ticksX != nil {
		p.X.Tick.Marker = c.ticksX
	}
	p.Y.Tick.Marker = plot.TickerFunc(plainTicks)
	if c.logY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.TickerFunc(logTicks)
	}
	lines := plotter.NewGrid()
	lines.Vertical.Color, lines.Horizontal.Color = grid, grid
	p.Add(lines)
	p.Legend.Top, p.Legend.Left = true, c.logY
	for _, l := range c.lines {
		drawn, err := plotter.NewLine(l.xy)
		if err != nil {
			return nil, fmt.Errorf("bench: plot %s: %w", c.Title, err)
		}
		drawn.Color, drawn.Width = l.color, vg.Points(1.5)
		p.Add(drawn)
		if len(c.lines) > 1 {
			p.Legend.Add(l.name, drawn)
		}
	}
	c.bounds(p)
	return p, nil
}

// bounds leaves room around the curves, and some where they are flat.
func (c chart) bounds(p *plot.Plot) {
	if p.X.Max <= p.X.Min {
		p.X.Max = p.X.Min + 1
	}
	if c.ticksX == nil {
		p.X.Min = 0
	}
	if c.logY {
		if len(c.lines) > 1 {
			p.Y.Max *= 10 // for the legend
		}
		p.Y.Min = math.Pow(10, math.Floor(math.Log10(max(p.Y.Min, 1e-3)))) // a nanosecond
		p.Y.Max = math.Pow(10, math.Ceil(math.Log10(p.Y.Max*1.01)))
		return
	}
	p.Y.Min, p.Y.Max = 0, max(p.Y.Max*1.1, 1)
}

// SVG draws the plot for inclusion in a page, whose text colour it takes.
func (c chart) SVG() (template.HTML, error) {
	p, err := c.plotted()
	if err != nil {
		return "", err
	}
	canvas := vgsvg.New(plotWidth, plotHeight)
	p.Draw(draw.New(canvas))
	var text bytes.Buffer
	if _, err := canvas.WriteTo(&text); err != nil {
		return "", fmt.Errorf("bench: plot %s: %w", c.Title, err)
	}
	svg := text.String()
	svg = svg[strings.Index(svg, "<svg"):] // without the XML header
	// What has no colour is black in SVG; black is written as no colour here.
	svg = strings.Replace(svg, "<svg ", `<svg role="img" fill="currentColor" `, 1)
	svg = strings.ReplaceAll(svg, "stroke:#000000", "stroke:currentColor")
	svg = strings.ReplaceAll(svg, "fill:#000000", "fill:currentColor")
	return template.HTML(svg), nil //nolint:gosec // made here, from numbers and constant titles
}

// charts are the plots of a result.
func (r *Result) charts() []chart {
	charts := []chart{percentileChart(r.Histogram)}
	if len(r.Series) < 2 {
		return charts
	}
	interval := r.Series[1].Start.Seconds()
	rate, p50, p99, longest := plotter.XYs{}, plotter.XYs{}, plotter.XYs{}, plotter.XYs{}
	for _, s := range r.Series {
		length := min(interval, r.DurationS-s.Start.Seconds())
		if length < interval/10 {
			continue // the end of the load: too short for a rate
		}
		x := s.Start.Seconds() + length/2
		rate = append(rate, plotter.XY{X: x, Y: float64(s.Ops) / length})
		if s.Max > 0 {
			p50 = append(p50, plotter.XY{X: x, Y: float64(max(s.P50, 1)) / 1e3})
			p99 = append(p99, plotter.XY{X: x, Y: float64(max(s.P99, 1)) / 1e3})
			longest = append(longest, plotter.XY{X: x, Y: float64(s.Max) / 1e3})
		}
	}
	charts = append(charts, chart{Title: "Throughput over time", x: "seconds", y: "operations per second", lines: []line{{"done", blue, rate}}})
	if len(p50) > 0 {
		charts = append(charts, chart{Title: "Latency over time", x: "seconds", y: "latency (µs)", logY: true, lines: []line{
			{"p50", blue, p50}, {"p99", orange, p99}, {"max", purple, longest},
		}})
	}
	return charts
}

// percentileChart shows latency over the share of operations that were no
// slower, on an axis that gives each further nine the same room.
func percentileChart(h *hdrhistogram.Histogram) chart {
	xy := plotter.XYs{}
	for _, b := range h.CumulativeDistributionWithTicks(5) {
		if b.Quantile < 100 {
			xy = append(xy, plotter.XY{X: -math.Log10(1 - b.Quantile/100), Y: float64(max(b.ValueAt, 1)) / 1e3})
		}
	}
	if len(xy) == 0 {
		xy = plotter.XYs{{X: 0, Y: 1}}
	}
	var ticks []plot.Tick
	for x := range int(xy[len(xy)-1].X) + 2 {
		label := strconv.FormatFloat(100-100*math.Pow(10, -float64(x)), 'f', max(0, x-2), 64) + " %"
		ticks = append(ticks, plot.Tick{Value: float64(x), Label: label})
	}
	return chart{
		Title: "Latency by percentile", x: "share of operations", y: "latency (µs)",
		ticksX: plot.ConstantTicks(ticks), logY: true, lines: []line{{"latency", blue, xy}},
	}
}

// plainTicks are the usual ones with readable numbers.
func plainTicks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = short(t.Value)
		}
	}
	return ticks
}

// logTicks have a label at every power of ten.
func logTicks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	if low <= 0 || high > maxAxis {
		return ticks
	}
	for v := math.Pow(10, math.Floor(math.Log10(low)+1e-9)); v <= high*1.0001; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: short(v)})
		for i := 2; i < 10 && v*float64(i) <= high; i++ {
			ticks = append(ticks, plot.Tick{Value: v * float64(i)})
		}
	}
	return ticks
}

func short(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + " M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + " k"
	default:
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
}

// microseconds prints a latency that is given in nanoseconds.
func microseconds(ns int64) string {
	return strconv.FormatFloat(float64(ns)/float64(time.Microsecond), 'f', 1, 64)
}
