// The chart of sales, forecast and prediction interval.
import { axis, legend, type Palette, timeAxis, tooltip } from "../../components/chart";
import { count, formatIsoDate, percent } from "../../format";
import { type Row, isWholePeriod } from "./rows";

/** Formats for tooltips (`full`) and for the axis (`short`), by the unit of the series. */
export interface Formats {
  full: (value: number) => string;
  short: (value: number) => string;
}

export function drawing(
  colors: Palette,
  actual: Row[],
  forecast: Row[],
  format: Formats,
  interval: number,
) {
  const [past, future] = [actual.filter(isWholePeriod), forecast.filter(isWholePeriod)];
  // Partial periods are points of their own: on the line, two days of a week would look like a
  // slump.
  const partial = [...actual, ...forecast.filter((r) => !actual.includes(r))].filter(
    (r) => !isWholePeriod(r),
  );
  const line = { type: "line" as const, showSymbol: future.length === 1 };
  const [blue, orange, green] = colors.series;
  // The median is drawn only if it differs visibly from the mean.
  const showMedian = future.some(
    (r) => r.median !== undefined && Math.abs(r.median - r.mean!) > 0.02 * r.mean!,
  );
  const intervalName = `${percent(interval, 0)} interval`;
  return {
    tooltip: tooltip(colors, {
      trigger: "axis",
      formatter: (points: { axisValue: number; dataIndex: number; seriesName: string }[]) => {
        const at = new Date(points[0]!.axisValue).toISOString().slice(0, 10);
        const row = actual.find((r) => r.from === at) ?? forecast.find((r) => r.from === at);
        return [
          formatIsoDate(at),
          ...(!row || isWholePeriod(row)
            ? []
            : [`${count(row.days)} of ${count(row.daysInPeriod)} days`]),
          ...(row?.actual === undefined ? [] : [`Actual: ${format.full(row.actual)}`]),
          ...(row?.mean === undefined ? [] : [`Expected: ${format.full(row.mean)}`]),
          ...(row?.median === undefined ? [] : [`Median: ${format.full(row.median)}`]),
          ...(row?.low === undefined
            ? []
            : [`Interval: ${format.full(row.low)} to ${format.full(row.high!)}`]),
        ].join("\n");
      },
    }),
    legend: legend(colors, {
      data: [
        "Actual",
        showMedian ? MEAN : "Expected",
        ...(showMedian ? [MEDIAN] : []),
        intervalName,
        ...(partial.length > 0 ? [PART] : []),
      ],
    }),
    xAxis: timeAxis(colors),
    yAxis: {
      type: "value" as const,
      ...axis(colors),
      axisLabel: { color: colors.muted, formatter: format.short },
    },
    dataZoom: [
      { type: "inside" as const, zoomOnMouseWheel: "ctrl" as const, moveOnMouseMove: false },
    ],
    series: [
      { ...line, name: "Actual", color: blue, data: past.map((r) => [r.from, r.actual]) },
      // The interval is the area between two stacked lines: `low`, invisible, and `high - low`
      // above it.
      {
        ...line,
        name: "low",
        stack: "interval",
        lineStyle: { opacity: 0 },
        silent: true,
        data: future.map((r) => [r.from, r.low]),
      },
      {
        ...line,
        name: intervalName,
        stack: "interval",
        color: orange,
        lineStyle: { opacity: 0 },
        areaStyle: { opacity: 0.25 },
        itemStyle: { opacity: 0.35 }, // colours the legend, which ignores `areaStyle`
        data: future.map((r) => [r.from, r.high! - r.low!]),
      },
      {
        ...line,
        name: showMedian ? MEAN : "Expected",
        color: orange,
        data: future.map((r) => [r.from, r.mean]),
      },
      ...(showMedian
        ? [
            {
              ...line,
              name: MEDIAN,
              color: green,
              lineStyle: { type: "dashed" as const },
              data: future.map((r) => [r.from, r.median]),
            },
          ]
        : []),
      {
        type: "scatter" as const,
        name: PART,
        color: colors.muted,
        symbolSize: 8,
        data: partial.map((r) => ({
          value: [r.from, r.actual ?? r.mean],
          itemStyle: {
            color: colors.surface,
            borderColor: r.actual === undefined ? orange : blue,
            borderWidth: 2,
          },
        })),
      },
    ],
  };
}

const MEAN = "Expected (mean)";

const MEDIAN = "Median";

const PART = "Partial period";
