// What will sell, with the range it will probably fall in, after what was sold.
import { skipToken, useCall } from "../api";
import { axis, Chart, timeAxis, legend, tooltip, type Palette } from "../chart";
import { CountryFilter, ProductFilter } from "../filters";
import { change, count, day, dayOf, decimal, isoDay, money, percent, sentence, shortCount, shortMoney } from "../format";
import { ForecastService, Frequency, Level, type ForecastPoint, type Series } from "../gen/shopkeeper/forecast/v1/forecast_pb";
import { Frequency as Every, InsightsService } from "../gen/shopkeeper/insights/v1/insights_pb";
import { ModelService, type Metric } from "../gen/shopkeeper/model/v1/model_pb";
import { metricName, metricValue } from "../metrics";
import { Answer, Card, Choice, Empty, Figure, Page, Problem, SelectFilter, NumberFilter } from "../parts";
import { Table, type Column } from "../table";
import { filter, numberFilter, setFilters } from "../url";

const LEVELS: Record<string, Level> = { shop: Level.TOTAL, country: Level.COUNTRY, product: Level.PRODUCT };
const PERIODS = {
  day: { frequency: Frequency.DAILY, every: Every.DAILY, horizon: 28, most: 366, past: 120, unit: "days" },
  week: { frequency: Frequency.WEEKLY, every: Every.WEEKLY, horizon: 8, most: 53, past: 60, unit: "weeks" },
  month: { frequency: Frequency.MONTHLY, every: Every.MONTHLY, horizon: 3, most: 12, past: 36, unit: "months" },
};
type Period = keyof typeof PERIODS;

/** What the reader asks about; undefined while they have not said of what. */
function useQuestion() {
  const level = LEVELS[filter("level", "shop")] ?? Level.TOTAL;
  const key = level === Level.COUNTRY ? filter("country") : level === Level.PRODUCT ? filter("product") : "";
  const period = PERIODS[filter("every", "day") as Period] ?? PERIODS.day;
  const horizon = Math.round(numberFilter("horizon", period.horizon, 1, period.most));
  const interval = numberFilter("interval", 80, 1, 99) / 100;
  return { level, key, period, horizon, interval, complete: level === Level.TOTAL || key !== "" };
}

export default function Forecast() {
  const { level, period } = useQuestion();
  return (
    <Page
      title="Forecast"
      lead="What will probably sell, in the shop, in a country or of a product, and how far off that may be."
      filters={
        <>
          <Choice
            name="level"
            label="Sales of"
            otherwise="shop"
            options={[
              ["shop", "The shop"],
              ["country", "A country"],
              ["product", "A product"],
            ]}
          />
          {level === Level.COUNTRY && <CountryFilter all="Choose a country" />}
          {level === Level.PRODUCT && <ProductFilter name="product" label="Product" placeholder="Code or words" />}
          <Choice
            name="every"
            label="Per"
            otherwise="day"
            options={[
              ["day", "Day"],
              ["week", "Week"],
              ["month", "Month"],
            ]}
          />
          <NumberFilter name="horizon" label="Ahead" otherwise={period.horizon} least={1} most={period.most} unit={period.unit} />
          <SelectFilter
            name="interval"
            label="Range"
            otherwise="80"
            options={[
              ["50", "50 %: every second time"],
              ["80", "80 %: four times in five"],
              ["95", "95 %: nearly always"],
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Ahead />
        <Backtest />
        <SeriesList />
      </div>
    </Page>
  );
}

/** A quantile's name: 10 %, 2.5 %. */
const quantile = (level: number) => percent(level, Math.round(level * 1000) % 10 === 0 ? 0 : 1);

interface Row {
  from: string;
  actual?: number;
  mean?: number;
  low?: number;
  high?: number;
}

function rowsOf(points: ForecastPoint[]): Row[] {
  return points.map((p) => ({
    from: dayOf(p.periodStart),
    mean: p.mean,
    low: p.quantiles[0]?.value,
    high: p.quantiles[1]?.value,
  }));
}

function Ahead() {
  const { level, key, period, horizon, interval, complete } = useQuestion();
  const forecast = useCall(
    ForecastService.method.forecastSales,
    complete
      ? { level, key, frequency: period.frequency, horizon, quantiles: [(1 - interval) / 2, (1 + interval) / 2] }
      : skipToken,
  );
  const past = useCall(
    InsightsService.method.listSalesTrend,
    complete
      ? {
          frequency: period.every,
          countries: level === Level.COUNTRY ? [key] : [],
          stockCodes: level === Level.PRODUCT ? [key] : [],
          pageSize: 1000,
        }
      : skipToken,
  );
  if (!complete)
    return (
      <Card title="Forecast">
        <Empty>Choose a {level === Level.COUNTRY ? "country" : "product"} above, or one of the list below.</Empty>
      </Card>
    );
  // The last answer stays while another is on the way, and where there is none.
  const series = forecast.data?.series;
  const name = series?.key === key && !forecast.error ? series.name : "";
  return (
    <Card
      title={level === Level.TOTAL ? "The shop" : !name || level === Level.COUNTRY ? key : `${sentence(name)} (${key})`}
      note={!forecast.error && forecast.data && `From ${day(forecast.data.model?.asOf)} on, by model ${forecast.data.model?.version}`}
    >
      <Answer of={forecast} empty={(a) => a.points.length === 0}>
        {(a) => {
          const pieces = a.series?.unit === "pieces";
          const amount = pieces ? count : money;
          const short = pieces ? shortCount : shortMoney;
          const ahead = rowsOf(a.points);
          const start = ahead[0]!.from;
          const actual = (past.data?.periods ?? [])
            .map((p): Row => ({ from: dayOf(p.periodStart), actual: pieces ? Number(p.sales?.items) : p.sales?.revenue }))
            .filter((row) => row.from < start)
            .slice(-period.past);
          const rows = [...actual, ...ahead];
          const sum = (of: (row: Row) => number | undefined, among: Row[]) => among.reduce((all, row) => all + (of(row) ?? 0), 0);
          const total = sum((row) => row.mean, ahead);
          const before = actual.length >= horizon ? sum((row) => row.actual, actual.slice(-horizon)) : undefined;
          const columns: Column<Row>[] = [
            { header: "Period from", value: (r) => r.from, show: (r) => isoDay(r.from) },
            { header: "Actual", value: (r) => r.actual, format: amount },
            { header: "Expected", value: (r) => r.mean, format: amount },
            { header: `Low (${quantile((1 - interval) / 2)})`, value: (r) => r.low, format: amount },
            { header: `High (${quantile((1 + interval) / 2)})`, value: (r) => r.high, format: amount },
          ];
          return (
            <>
              <dl class="figures">
                <Figure
                  name={`Expected in ${count(horizon)} ${period.unit}`}
                  value={amount(total)}
                  note={before ? `${change(total / before - 1)} on as long before` : pieces ? "pieces" : undefined}
                />
                <Figure name={`On average a ${filter("every", "day")}`} value={amount(total / ahead.length)} note={pieces ? "pieces" : undefined} />
              </dl>
              <Chart
                label={`Sales so far and forecast with ${percent(interval, 0)} range`}
                height="tall"
                rows={rows}
                columns={columns}
                download="forecast"
                option={(colors) => drawing(colors, actual, ahead, short, amount, interval)}
              />
              {past.error && <Problem error={past.error} retry={past.refetch} />}
              {a.reasons.length > 0 && (
                <ul class="reasons below">
                  {a.reasons.map((reason) => (
                    <li key={reason}>{sentence(reason)}</li>
                  ))}
                </ul>
              )}
            </>
          );
        }}
      </Answer>
    </Card>
  );
}

function drawing(colors: Palette, actual: Row[], ahead: Row[], short: (v: number) => string, amount: (v: number) => string, interval: number) {
  const line = { type: "line" as const, showSymbol: ahead.length === 1 };
  const [blue, orange] = colors.series;
  return {
    tooltip: tooltip(colors, {
      trigger: "axis",
      formatter: (hits: { axisValue: number; dataIndex: number; seriesName: string }[]) => {
        const at = new Date(hits[0]!.axisValue).toISOString().slice(0, 10);
        const row = actual.find((r) => r.from === at) ?? ahead.find((r) => r.from === at);
        return [
          isoDay(at),
          ...(row?.actual === undefined ? [] : [`Actual: ${amount(row.actual)}`]),
          ...(row?.mean === undefined ? [] : [`Expected: ${amount(row.mean)}`, `Range: ${amount(row.low!)} to ${amount(row.high!)}`]),
        ].join("\n");
      },
    }),
    legend: legend(colors, { data: ["Actual", "Expected", `${percent(interval, 0)} range`] }),
    xAxis: timeAxis(colors),
    yAxis: { type: "value" as const, ...axis(colors), axisLabel: { color: colors.muted, formatter: short } },
    dataZoom: [{ type: "inside" as const, zoomOnMouseWheel: "ctrl" as const, moveOnMouseMove: false }],
    series: [
      { ...line, name: "Actual", color: blue, data: actual.map((r) => [r.from, r.actual]) },
      // The range is the room between two lines, stacked.
      { ...line, name: "low", stack: "range", lineStyle: { opacity: 0 }, silent: true, data: ahead.map((r) => [r.from, r.low]) },
      {
        ...line,
        name: `${percent(interval, 0)} range`,
        stack: "range",
        color: orange,
        lineStyle: { opacity: 0 },
        areaStyle: { opacity: 0.25 },
        itemStyle: { opacity: 0.35 }, // the legend's, which the area would not colour
        data: ahead.map((r) => [r.from, r.high! - r.low!]),
      },
      { ...line, name: "Expected", color: orange, data: ahead.map((r) => [r.from, r.mean]) },
    ],
  };
}

const METRICS: Column<Metric>[] = [
  { header: "Figure", value: (m) => metricName(m.name), wide: true },
  { header: "Model", value: (m) => m.value, format: decimal, show: (m) => metricValue(m.name, m.value) },
  {
    header: "Naive answer",
    value: (m) => m.baseline,
    format: decimal,
    show: (m) => (m.baseline === undefined ? "–" : metricValue(m.name, m.baseline)),
  },
];

function Backtest() {
  const { level, key, period, complete } = useQuestion();
  const versions = useCall(ModelService.method.getModelStatus, { model: "forecast" });
  const rehearsed = complete && level !== Level.PRODUCT && period.frequency !== Frequency.MONTHLY;
  const past = useCall(ForecastService.method.listBacktest, rehearsed ? { level, key, frequency: period.frequency } : skipToken);
  return (
    <>
      <Card
        title="As it was forecast, and as it came"
        note="Forecasts of the past, each from what was known then, beside what was sold"
        span={7}
      >
        {rehearsed ? (
          <Answer of={past} empty={(a) => a.points.length === 0} nothing="This version was published without an evaluation.">
            {(a) => {
              const rows = a.points.map(
                (p): Row => ({ from: dayOf(p.periodStart), actual: p.actual, mean: p.mean, low: p.quantiles[0]?.value, high: p.quantiles[1]?.value }),
              );
              return (
                <>
                  <dl class="figures">
                    <Figure name="Error (WAPE)" value={percent(a.wape)} note="of what was sold; less is better" />
                    <Figure name="Within the 80 % range" value={percent(a.coverage)} note="80 % is what it promises" />
                  </dl>
                  <Chart
                    label="Past forecasts beside what was sold"
                    rows={rows}
                    columns={BACKTEST}
                    download="backtest"
                    option={(colors) => drawing(colors, rows, rows, shortMoney, money, 0.8)}
                  />
                </>
              );
            }}
          </Answer>
        ) : (
          <Empty>The shop and the larger countries are rehearsed, by day and by week. Choose one of these.</Empty>
        )}
      </Card>
      <Card title="Errors by kind of series" span={5} note="Of this version's evaluation, beside the naive answer">
        <Answer of={versions} empty={(a) => !a.status?.details?.metrics.length} nothing="This version was published without an evaluation.">
          {(a) => <Table label="Errors of the forecast on its backtest" rows={a.status!.details!.metrics} columns={METRICS} pageSize={12} />}
        </Answer>
      </Card>
    </>
  );
}
const BACKTEST: Column<Row>[] = [
  { header: "Period from", value: (r) => r.from, show: (r) => isoDay(r.from) },
  { header: "Actual", value: (r) => r.actual, format: money },
  { header: "Forecast", value: (r) => r.mean, format: money },
  { header: "Low (10%)", value: (r) => r.low, format: money },
  { header: "High (90%)", value: (r) => r.high, format: money },
];

const SERIES: Column<Series>[] = [
  {
    header: "Series",
    value: (s) => sentence(s.name || "the shop"),
    wide: true,
    show: (s) => (
      <button
        type="button"
        class="plain link"
        onClick={() =>
          setFilters({
            level: s.level === Level.TOTAL ? undefined : s.level === Level.COUNTRY ? "country" : "product",
            country: s.level === Level.COUNTRY ? s.key : undefined,
            product: s.level === Level.PRODUCT ? s.key : undefined,
          })
        }
      >
        {sentence(s.name || "the shop")}
      </button>
    ),
  },
  { header: "Code", value: (s) => (s.level === Level.PRODUCT ? s.key : "") },
  {
    header: "Last 28 days",
    value: (s) => s.recentTotal,
    format: count,
    show: (s) => (s.unit === "pieces" ? `${count(s.recentTotal)} pieces` : money(s.recentTotal)),
  },
];

function SeriesList() {
  const { level } = useQuestion();
  const series = useCall(ForecastService.method.listSeries, { level: level === Level.TOTAL ? Level.UNSPECIFIED : level, pageSize: 1000 });
  return (
    <Card title="Series" note={series.data && `The largest ${count(series.data.series.length)} of ${count(series.data.totalSize)}`}>
      <Answer of={series} empty={(a) => a.series.length === 0}>
        {(a) => <Table label="Series that can be forecast" rows={a.series} columns={SERIES} pageSize={8} />}
      </Answer>
    </Card>
  );
}
