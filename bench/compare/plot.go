package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The plot is drawn by hand: a few bars need no library, and one would not give
// it colours that follow the reader's light or dark page.
const (
	plotWidth  = 860
	plotLeft   = 320 // where bars begin
	plotRight  = 710 // where they end at most, and figures begin
	barHeight  = 14
	lineHeight = 24
)

const plotStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
.tidemark { fill: #0a7ea4 } .other { fill: #8c959f } .missed { fill: #cf6d17 }
.spread, .target { stroke: #24292f; fill: none } .target { stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 }
  .tidemark { fill: #39b3d7 } .other { fill: #6e7681 } .missed { fill: #e0873d }
  .spread, .target { stroke: #e6edf3 }
}
</style>
`

// drawing is a plot from top to bottom.
type drawing struct {
	strings.Builder
	y int
}

func (d *drawing) title(s string) {
	d.y += lineHeight + 8
	fmt.Fprintf(d, "<text class=\"title\" x=\"8\" y=\"%d\">%s</text>\n", d.y, html.EscapeString(s))
	d.y += 8
}

// x returns where a part of the width is.
func x(part float64) float64 { return plotLeft + min(part, 1)*(plotRight-plotLeft) }

// bar draws a line of the plot: low, middle and high are parts of the width.
func (d *drawing) bar(class, label, value string, low, middle, high float64) {
	fmt.Fprintf(d, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", plotLeft-8, d.y+barHeight-2, html.EscapeString(label))
	fmt.Fprintf(d, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", class, plotLeft, d.y, x(middle)-plotLeft, barHeight)
	fmt.Fprintf(d, "<path class=\"spread\" d=\"M%.1f %dH%.1f\"/>\n", x(low), d.y+barHeight/2, x(high))
	fmt.Fprintf(d, "<text class=\"small\" x=\"%d\" y=\"%d\">%s</text>\n", plotRight+8, d.y+barHeight-3, html.EscapeString(value))
	d.y += lineHeight
}

// svg draws how many pushes each subject takes, and how far each target is
// reached.
func (b *bench) svg() string {
	d := &drawing{}
	for _, batch := range []string{"10", "1", "100"} {
		b.drawPushes(d, batch)
	}
	b.drawGoals(d)
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n%s%s</svg>\n",
		plotWidth, d.y+8, "Pushes per second of each subject, and how far each target is reached", plotStyle, d)
}

func (b *bench) drawPushes(d *drawing, batch string) {
	type line struct {
		class, label string
		rates        []float64
	}
	var lines []line
	highest := 0.0
	for _, subject := range []string{"floor", "tidemark", "pocketbase"} {
		var rates []float64
		for _, f := range b.figures[subject+"/"+batch] {
			rates = append(rates, f.perSecond)
			highest = max(highest, f.perSecond)
		}
		if len(rates) == 0 {
			continue
		}
		slices.Sort(rates)
		class := "other"
		if subject == "tidemark" {
			class = subject
		}
		lines = append(lines, line{class, plotNames[subject], rates})
	}
	if len(lines) == 0 {
		return
	}
	d.title("pushes per second, " + batch + " mutations in each, 64 connections")
	for _, l := range lines {
		n := len(l.rates)
		d.bar(l.class, l.label, short(median(l.rates)), l.rates[0]/highest, median(l.rates)/highest, l.rates[n-1]/highest)
	}
}

var plotNames = map[string]string{
	"floor": "the same server, keeping nothing", "tidemark": "tidemark, each on disk", "pocketbase": "PocketBase, not synced",
}

// drawGoals draws each goal so that its target is where the dashed line is.
func (b *bench) drawGoals(d *drawing) {
	const target = 0.5 // of the width; twice the target and more fill it
	d.title("against the target (the dashed line)")
	top := d.y
	for _, g := range goals {
		values := b.reached(g)
		if len(values) == 0 {
			continue
		}
		met := make([]float64, len(values))
		for i, v := range values {
			met[i] = g.met(v) * target
		}
		slices.Sort(met)
		class := "tidemark"
		if math.Round(median(met)*1000) < 1000*target {
			class = "missed"
		}
		d.bar(class, g.label, short(median(values))+g.unit+" ("+g.bound()+")", met[0], median(met), met[len(met)-1])
	}
	fmt.Fprintf(d, "<path class=\"target\" d=\"M%.1f %dV%d\"/>\n", x(target), top-4, d.y-4)
}
