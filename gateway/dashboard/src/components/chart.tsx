// The chart of all pages: ECharts on a canvas in the theme's colours, with its data as a table
// below.
import type { EChartsOption } from "echarts";
import { useEffect, useRef, useState } from "preact/hooks";
import { theme } from "../session";
import type { EChartsType } from "./echarts";
import { type Column, Table } from "./table";

/** The theme's colours, read from the style sheet. */
export interface Palette {
  text: string;
  muted: string;
  line: string;
  surface: string;
  accent: string;
  tint: string;
  up: string;
  down: string;
  good: string;
  bad: string;
  weak: string;
  series: string[];
}

function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const color = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: color("text"),
    muted: color("muted"),
    line: color("line"),
    surface: color("surface"),
    accent: color("accent"),
    tint: color("tint"),
    up: color("up"),
    down: color("down"),
    good: color("good"),
    bad: color("bad"),
    weak: color("weak"),
    series: [1, 2, 3, 4, 5, 6, 7, 8].map((n) => color(`series-${n}`)),
  };
}

// Loaded with the page that draws, in parallel to its first call.
const library = import("./echarts");

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Options that all charts share. Those of axes are in `axis`. */
function base(colors: Palette): EChartsOption {
  return {
    color: colors.series,
    textStyle: { color: colors.text, fontFamily: "system-ui, sans-serif", fontSize: 12 },
    animation: !reducedMotion.matches,
    animationDuration: 250,
    animationDurationUpdate: 250,
    grid: {
      left: 8,
      right: 16,
      top: 32,
      bottom: 8,
      outerBoundsMode: "same",
      outerBoundsContain: "axisLabel",
    },
    legend: legend(colors),
  };
}

export const legend = (colors: Palette, more: object = {}) => ({
  type: "scroll" as const,
  top: 0,
  left: 0,
  icon: "roundRect",
  itemWidth: 14,
  itemHeight: 8,
  textStyle: { color: colors.text, lineHeight: 18 }, // a smaller one cuts off ascenders if the legend has pages
  pageTextStyle: { color: colors.text },
  ...more,
});

/**
 * A tooltip drawn on the canvas, because the gateway's Content-Security-Policy forbids inline
 * styles.
 */
export const tooltip = (colors: Palette, more: object = {}) => ({
  renderMode: "richText" as const,
  confine: true,
  backgroundColor: colors.surface,
  borderColor: colors.line,
  textStyle: { color: colors.text, fontSize: 12 },
  ...more,
});

export const axis = (colors: Palette, more: object = {}) => ({
  axisLine: { lineStyle: { color: colors.line } },
  axisTick: { show: false },
  axisLabel: { color: colors.muted, hideOverlap: true },
  nameTextStyle: { color: colors.muted },
  splitLine: { lineStyle: { color: colors.line } },
  ...more,
});

/** A time axis of days, each label of which can be read without its neighbours. */
export const timeAxis = (colors: Palette) => ({
  type: "time" as const,
  ...axis(colors, { splitLine: { show: false } }),
  axisLabel: {
    color: colors.muted,
    hideOverlap: true,
    formatter: { year: "{yyyy}", month: "{MMM}", day: "{d} {MMM}" },
  },
});

interface Props<T extends object> {
  /** What the chart shows, for screen readers. */
  label: string;
  option: (colors: Palette) => EChartsOption;
  /** The data as a table. */
  rows: T[];
  columns: Column<T>[];
  download?: string;
  height?: "low" | "tall";
  /** Called when an item of the data is clicked, with its name and its index. */
  onChoose?: (name: string, at: number) => void;
  /**
   * Runs before the first drawing, to register maps; must stay the same function between renders.
   */
  prepare?: (echarts: typeof import("./echarts")) => Promise<void>;
}

export function Chart<T extends object>(props: Props<T>) {
  const { label, option, rows, columns, download, height, onChoose, prepare } = props;
  const canvasRef = useRef<HTMLDivElement>(null);
  const [chart, setChart] = useState<EChartsType>();
  const [open, setOpen] = useState(false);
  const [failed, setFailed] = useState(false);
  const shown = theme();

  // The click handler is registered once per chart and calls the newest `onChoose`.
  const onChooseRef = useRef(onChoose);
  useEffect(() => {
    onChooseRef.current = onChoose;
  });

  useEffect(() => {
    let disposed = false;
    let created: EChartsType | undefined;
    let observer: ResizeObserver | undefined;
    const create = async () => {
      const echarts = await library;
      await prepare?.(echarts);
      // The reader may have left the page while the library was loading.
      if (disposed || !canvasRef.current) return;
      const instance = echarts.init(canvasRef.current);
      created = instance;
      instance.on("click", ({ name, dataIndex }) => onChooseRef.current?.(name, dataIndex));
      observer = new ResizeObserver(() => instance.resize());
      observer.observe(canvasRef.current);
      setChart(instance);
    };
    create().catch(() => setFailed(true));
    return () => {
      disposed = true;
      observer?.disconnect();
      created?.dispose();
      setChart(undefined);
    };
  }, [prepare]);

  useEffect(() => {
    if (!chart) return;
    const colors = palette();
    chart.setOption({ ...base(colors), ...option(colors) }, { notMerge: true });
  }, [chart, option, shown]);

  return (
    <figure class="chart">
      {failed && <p role="alert">The chart could not be loaded. Its figures are here:</p>}
      <div
        ref={canvasRef}
        hidden={failed}
        class={`canvas ${height ?? ""}`}
        role="img"
        aria-label={label}
        data-drawn={chart !== undefined || failed}
      />
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          Figures<span class="unseen"> of {label}</span>
        </summary>
        {open && <Table label={label} rows={rows} columns={columns} download={download} />}
      </details>
    </figure>
  );
}
