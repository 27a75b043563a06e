// What will sell, with the range it will probably fall in, after what was sold.
import { useQuery } from "@tanstack/preact-query";
import { skipToken, useCall } from "../api";
import { axis, Chart, timeAxis, legend, tooltip, type Palette } from "../chart";
import { CountryFilter, ProductFilter } from "../filters";
import {
  change,
  count,
  day,
  dayOf,
  days,
  decimal,
  isoDay,
  money,
  percent,
  sentence,
  shortCount,
  shortMoney,
} from "../format";
import {
  ForecastService,
  Frequency,
  Level,
  type ForecastPoint,
  type Series,
} from "../gen/shopkeeper/forecast/v1/forecast_pb";
import { ModelService, type Metric } from "../gen/shopkeeper/model/v1/model_pb";
import { metricName, metricValue } from "../metrics";
import {
  Answer,
  Card,
  Choice,
  Empty,
  Figure,
  Page,
  Problem,
  SelectFilter,
  NumberFilter,
} from "../parts";
import { soldDays, type SoldDay } from "../sold";
import { Table, type Column } from "../table";
import { filter, numberFilter, setFilters } from "../url";

const DAY = 86_400_000;
function plus(on: string, more = 0) {
  return new Date(Date.parse(on) + more * DAY).toISOString().slice(0, 10);
}
const between = (from: string, to: string) => Math.round((Date.parse(to) - Date.parse(from)) / DAY);

const LEVELS: Record<string, Level> = {
  shop: Level.TOTAL,
  country: Level.COUNTRY,
  product: Level.PRODUCT,
};
/** Kinds of periods: how many ahead and back, and where the one begins that a day is in, or that comes some later. */
const PERIODS = {
  day: { frequency: Frequency.DAILY, horizon: 28, most: 366, past: 120, unit: "days", begin: plus },
  week: {
    frequency: Frequency.WEEKLY,
    horizon: 8,
    most: 53,
    past: 60,
    unit: "weeks",
    begin: (on: string, later = 0) => plus(on, 7 * later - ((new Date(on).getUTCDay() + 6) % 7)), // Monday
  },
  month: {
    frequency: Frequency.MONTHLY,
    horizon: 3,
    most: 12,
    past: 36,
    unit: "months",
    begin(on: string, later = 0) {
      const date = new Date(on);
      return new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + later))
        .toISOString()
        .slice(0, 10);
    },
  },
};
type Period = keyof typeof PERIODS;

/** What the reader asks about; undefined while they have not said of what. */
function useQuestion() {
  const level = LEVELS[filter("level", "shop")] ?? Level.TOTAL;
  const key =
    level === Level.COUNTRY ? filter("country") : level === Level.PRODUCT ? filter("product") : "";
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
          {level === Level.PRODUCT && (
            <ProductFilter name="product" label="Product" placeholder="Code or words" />
          )}
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
          <NumberFilter
            name="horizon"
            label="Ahead"
            otherwise={period.horizon}
            least={1}
            most={period.most}
            unit={period.unit}
          />
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
  /** Days that it is about, and days that its period has: fewer where the model's day is in the middle of a week or month. */
  days: number;
  of: number;
  actual?: number;
  mean?: number;
  median?: number;
  low?: number;
  high?: number;
}
const whole = (row: Row) => row.days === row.of;
const total = (rows: { value?: number }[]) => rows.reduce((all, { value = 0 }) => all + value, 0);

type Begin = (on: string, later?: number) => string;

/** What is expected, with its 10 %, 50 % and 90 % quantile or the like. */
function aheadOf(points: ForecastPoint[], begin: Begin): Row[] {
  return points.map((p) => {
    const from = dayOf(p.periodStart);
    const end = begin(from, 1);
    const [low, median, high] = p.quantiles.map((q) => q.value);
    return {
      from,
      days: between(from, end),
      of: between(begin(from), end),
      mean: p.mean,
      low,
      median,
      high,
    };
  });
}

/** Days as periods. */
function pastOf(sold: SoldDay[], begin: Begin): Row[] {
  return [...Map.groupBy(sold, (s) => begin(s.day))].map(([from, those]) => ({
    from,
    days: those.length,
    of: between(from, begin(from, 1)),
    actual: total(those),
  }));
}

/** What was sold up to the first day of a forecast, for as long as is shown and as the forecast is long. */
function useSold(points: ForecastPoint[]) {
  const { level, key, period } = useQuestion();
  const [start, last] = [dayOf(points[0]?.periodStart), dayOf(points.at(-1)?.periodStart)];
  const end = last && period.begin(last, 1);
  const earliest =
    start &&
    [
      period.begin(start, -period.past),
      period.begin(plus(start, between(end, start))),
    ].toSorted()[0]!;
  const answer = useQuery({
    queryKey: ["sold", level, key, earliest, start],
    queryFn: () => soldDays(level, key, earliest, start),
    enabled: start !== "",
  });
  const sold = answer.data ?? [];
  const span = between(start, end);
  const before = sold.slice(-span);
  return {
    ...answer,
    sold,
    span,
    end,
    before: span > 0 && before.length === span ? total(before) : undefined,
  };
}

function Ahead() {
  const { level, key, period, horizon, interval, complete } = useQuestion();
  const forecast = useCall(
    ForecastService.method.forecastSales,
    complete
      ? {
          level,
          key,
          frequency: period.frequency,
          horizon,
          quantiles: [(1 - interval) / 2, 0.5, (1 + interval) / 2],
        }
      : skipToken,
  );
  const past = useSold(complete ? (forecast.data?.points ?? []) : []);
  if (!complete)
    return (
      <Card title="Forecast">
        <Empty>
          Choose a {level === Level.COUNTRY ? "country" : "product"} above, or one of the list
          below.
        </Empty>
      </Card>
    );
  // The last answer stays while another is on the way, and where there is none.
  const series = forecast.data?.series;
  const name = series?.key === key && !forecast.error ? series.name : "";
  return (
    <Card
      title={
        level === Level.TOTAL
          ? "The shop"
          : !name || level === Level.COUNTRY
            ? key
            : `${sentence(name)} (${key})`
      }
      note={
        !forecast.error &&
        forecast.data &&
        `From ${day(forecast.data.model?.asOf)} on, by model ${forecast.data.model?.version}. ${
          level === Level.PRODUCT
            ? "Pieces sold, before returns."
            : "What is paid, before returns, with postage and fees: more than the revenue of other pages."
        }`
      }
    >
      <Answer
        of={{ ...forecast, isFetching: forecast.isFetching || past.isFetching }}
        empty={(a) => a.points.length === 0}
      >
        {(a) => {
          const pieces = a.series?.unit === "pieces";
          const amount = pieces ? count : money;
          const short = pieces ? shortCount : shortMoney;
          const ahead = aheadOf(a.points, period.begin);
          const actual = pastOf(past.sold, period.begin);
          const expected = total(ahead.map((row) => ({ value: row.mean })));
          const full = ahead.filter(whole);
          const outside = ahead.some((row) => row.mean! < row.low! || row.mean! > row.high!);
          const unit = pieces ? "pieces" : undefined;
          const columns: Column<Row>[] = [
            { header: "Period from", value: (r) => r.from, show: (r) => isoDay(r.from) },
            ...(period === PERIODS.day ? [] : DAYS),
            { header: "Actual", value: (r) => r.actual, format: amount },
            { header: "Expected", value: (r) => r.mean, format: amount },
            { header: "Median", value: (r) => r.median, format: amount },
            {
              header: `Low (${quantile((1 - interval) / 2)})`,
              value: (r) => r.low,
              format: amount,
            },
            {
              header: `High (${quantile((1 + interval) / 2)})`,
              value: (r) => r.high,
              format: amount,
            },
          ];
          return (
            <>
              <dl class="figures">
                <Figure
                  name={`Expected in ${days(past.span)}`}
                  value={amount(expected)}
                  note={
                    past.before
                      ? `${change(expected / past.before - 1)} on the ${days(past.span)} before`
                      : `until ${isoDay(plus(past.end, -1))}`
                  }
                />
                {past.before !== undefined && (
                  <Figure
                    name={`Sold in the ${days(past.span)} before`}
                    value={amount(past.before)}
                    note={unit}
                  />
                )}
                {full.length > 0 && (
                  <Figure
                    name={`On average a ${filter("every", "day")}`}
                    value={amount(total(full.map((row) => ({ value: row.mean }))) / full.length)}
                    note={
                      full.length < ahead.length
                        ? `of the ${count(full.length)} whole ${period.unit} ahead`
                        : unit
                    }
                  />
                )}
              </dl>
              <Chart
                label={`Sales so far and forecast with ${percent(interval, 0)} range`}
                height="tall"
                rows={[...actual, ...ahead]}
                columns={columns}
                download="forecast"
                option={(colors) => drawing(colors, actual, ahead, short, amount, interval)}
              />
              {past.error && <Problem error={past.error} retry={past.refetch} />}
              {outside && (
                <p class="notice below">
                  Expected is the mean, which lies outside of the range here. Sales are as often
                  above the median as below it: rather believe that one.
                </p>
              )}
              <ul class="reasons below">
                {a.reasons.map((reason) => (
                  <li key={reason}>{sentence(reason)}</li>
                ))}
              </ul>
            </>
          );
        }}
      </Answer>
    </Card>
  );
}
const DAYS: Column<Row>[] = [
  {
    header: "Days",
    value: (r) => r.days,
    format: count,
    show: (r) => (whole(r) ? count(r.days) : `${count(r.days)} of ${count(r.of)}`),
  },
  { header: "Days of the whole period", value: (r) => r.of, hidden: true },
];

function drawing(
  colors: Palette,
  actual: Row[],
  ahead: Row[],
  short: (v: number) => string,
  amount: (v: number) => string,
  interval: number,
) {
  const [past, future] = [actual.filter(whole), ahead.filter(whole)];
  // A day or two of a week beside whole weeks would look like a fall.
  const parts = [...actual, ...ahead.filter((r) => !actual.includes(r))].filter((r) => !whole(r));
  const line = { type: "line" as const, showSymbol: future.length === 1 };
  const [blue, orange, green] = colors.series;
  const apart = future.some(
    (r) => r.median !== undefined && Math.abs(r.median - r.mean!) > 0.02 * r.mean!,
  );
  const range = `${percent(interval, 0)} range`;
  return {
    tooltip: tooltip(colors, {
      trigger: "axis",
      formatter: (hits: { axisValue: number; dataIndex: number; seriesName: string }[]) => {
        const at = new Date(hits[0]!.axisValue).toISOString().slice(0, 10);
        const row = actual.find((r) => r.from === at) ?? ahead.find((r) => r.from === at);
        return [
          isoDay(at),
          ...(!row || whole(row) ? [] : [`${count(row.days)} of ${count(row.of)} days`]),
          ...(row?.actual === undefined ? [] : [`Actual: ${amount(row.actual)}`]),
          ...(row?.mean === undefined ? [] : [`Expected: ${amount(row.mean)}`]),
          ...(row?.median === undefined ? [] : [`Median: ${amount(row.median)}`]),
          ...(row?.low === undefined ? [] : [`Range: ${amount(row.low)} to ${amount(row.high!)}`]),
        ].join("\n");
      },
    }),
    legend: legend(colors, {
      data: [
        "Actual",
        apart ? MEAN : "Expected",
        ...(apart ? [MEDIAN] : []),
        range,
        ...(parts.length > 0 ? [PART] : []),
      ],
    }),
    xAxis: timeAxis(colors),
    yAxis: {
      type: "value" as const,
      ...axis(colors),
      axisLabel: { color: colors.muted, formatter: short },
    },
    dataZoom: [
      { type: "inside" as const, zoomOnMouseWheel: "ctrl" as const, moveOnMouseMove: false },
    ],
    series: [
      { ...line, name: "Actual", color: blue, data: past.map((r) => [r.from, r.actual]) },
      // The range is the room between two lines, stacked.
      {
        ...line,
        name: "low",
        stack: "range",
        lineStyle: { opacity: 0 },
        silent: true,
        data: future.map((r) => [r.from, r.low]),
      },
      {
        ...line,
        name: range,
        stack: "range",
        color: orange,
        lineStyle: { opacity: 0 },
        areaStyle: { opacity: 0.25 },
        itemStyle: { opacity: 0.35 }, // the legend's, which the area would not colour
        data: future.map((r) => [r.from, r.high! - r.low!]),
      },
      {
        ...line,
        name: apart ? MEAN : "Expected",
        color: orange,
        data: future.map((r) => [r.from, r.mean]),
      },
      ...(apart
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
        data: parts.map((r) => ({
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
const MEDIAN = "Median (as often above as below)";
const PART = "Part of a period";

const METRICS: Column<Metric>[] = [
  { header: "Figure", value: (m) => metricName(m.name), wide: true },
  {
    header: "Model",
    value: (m) => m.value,
    format: decimal,
    show: (m) => metricValue(m.name, m.value),
  },
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
  const past = useCall(
    ForecastService.method.listBacktest,
    rehearsed ? { level, key, frequency: period.frequency } : skipToken,
  );
  return (
    <>
      <Card
        title="As it was forecast, and as it came"
        note="Forecasts of the past, each from what was known then, beside what was sold"
        span={7}
      >
        {rehearsed ? (
          <Answer
            of={past}
            empty={(a) => a.points.length === 0}
            nothing="This version was published without an evaluation."
          >
            {(a) => {
              const rows = a.points.map((p): Row => ({
                from: dayOf(p.periodStart),
                days: 1,
                of: 1,
                actual: p.actual,
                mean: p.mean,
                low: p.quantiles[0]?.value,
                high: p.quantiles[1]?.value,
              }));
              return (
                <>
                  <dl class="figures">
                    <Figure
                      name="Error (WAPE)"
                      value={percent(a.wape)}
                      note="of what was sold; less is better"
                    />
                    <Figure
                      name="Within the 80 % range"
                      value={percent(a.coverage)}
                      note="80 % is what it promises"
                    />
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
          <Empty>
            The shop and the larger countries are rehearsed, by day and by week. Choose one of
            these.
          </Empty>
        )}
      </Card>
      <Card
        title="Errors by kind of series"
        span={5}
        note="Of this version's evaluation, beside the naive answer"
      >
        <Answer
          of={versions}
          empty={(a) => !a.status?.details?.metrics.length}
          nothing="This version was published without an evaluation."
        >
          {(a) => (
            <Table
              label="Errors of the forecast on its backtest"
              rows={a.status!.details!.metrics}
              columns={METRICS}
              pageSize={12}
            />
          )}
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
            level:
              s.level === Level.TOTAL
                ? undefined
                : s.level === Level.COUNTRY
                  ? "country"
                  : "product",
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
  const series = useCall(ForecastService.method.listSeries, {
    level: level === Level.TOTAL ? Level.UNSPECIFIED : level,
    pageSize: 1000,
  });
  return (
    <Card
      title="Series"
      note={
        series.data &&
        `The largest ${count(series.data.series.length)} of ${count(series.data.totalSize)}`
      }
    >
      <Answer of={series} empty={(a) => a.series.length === 0}>
        {(a) => (
          <Table
            label="Series that can be forecast"
            rows={a.series}
            columns={SERIES}
            pageSize={8}
          />
        )}
      </Answer>
    </Card>
  );
}
