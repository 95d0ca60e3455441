// Values over time, drawn by uPlot in the colours of the page.
import { html, useEffect, useLayoutEffect, useRef } from "./lib.js";
import { day as dayOf, moment, time } from "./format.js";

const HEIGHT = 210;

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { text: of("--soft"), grid: of("--line"), lines: [of("--link"), of("--good")] };
}

// `series` are { label, values, text }; `times` are seconds; with `bars` each value stands for itself; `live` seconds
// before the last time are shown.
export function Chart({ times, series, label, bars = false, day = false, live = 0 }) {
  const box = useRef(null);
  const plot = useRef(null);
  const data = [times, ...series.map((one) => one.values)];
  const latest = useRef(data);
  latest.current = data;
  useLayoutEffect(() => {
    const step = times.length > 1 ? times[1] - times[0] : 1;
    const make = () => {
      plot.current?.destroy();
      const look = colours();
      const axis = { stroke: look.text, grid: { stroke: look.grid, width: 1 }, ticks: { stroke: look.grid, width: 1 }, font: "12px system-ui, sans-serif" };
      plot.current = new uPlot({
        width: Math.max(box.current.clientWidth, 200),
        height: HEIGHT,
        cursor: { y: false },
        // Days are those of UTC, for whoever looks at them from wherever.
        tzDate: (at) => (day ? uPlot.tzDate(new Date(at * 1000), "Etc/UTC") : new Date(at * 1000)),
        scales: { x: { range: (_plot, low, high) => (live ? [high - live, high] : bars ? [low - step / 2, high + step / 2] : [low, high]) }, y: { range: (_plot, _low, high) => [0, Math.max(high * 1.08, 1)] } },
        axes: [{ ...axis, space: live ? 95 : 55, values: (_plot, all) => all.map((at) => (day ? dayOf(at) : time(at, live))) },
          { ...axis, size: 62, values: (_plot, all) => all.map((value) => Intl.NumberFormat("en", { notation: "compact" }).format(value)) }],
        series: [{ value: (_plot, at) => (at === null ? "–" : day ? dayOf(at) : live ? time(at, true) : moment(at)) },
          ...series.map((one, index) => ({
            label: one.label,
            stroke: look.lines[index % look.lines.length],
            fill: bars ? look.lines[index % look.lines.length] : undefined,
            width: bars ? 0 : 2,
            points: { show: false },
            paths: bars ? uPlot.paths.bars({ size: [0.7, 60] }) : undefined,
            value: (_plot, value) => (value === null || value === undefined ? "–" : one.text ? one.text(value) : String(value)),
          }))],
      }, latest.current, box.current);
    };
    make();
    const watch = new ResizeObserver(() => plot.current.setSize({ width: Math.max(box.current.clientWidth, 200), height: HEIGHT }));
    watch.observe(box.current);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make);
    addEventListener("flowgate-theme", make);
    return () => {
      watch.disconnect();
      scheme.removeEventListener("change", make);
      removeEventListener("flowgate-theme", make);
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(latest.current));
  return html`<div class="chart" ref=${box} role="img" aria-label=${label}></div>`;
}
