// The forecast from the model's as-of time on, after the sales before it.
import { useQuery } from "@tanstack/preact-query";
import { Chart } from "../../components/chart";
import { Card, Figure } from "../../components/layout";
import { Answer, Empty, Problem } from "../../components/states";
import type { Column } from "../../components/table";
import { skipToken, useCall } from "../../data/api";
import { dailySales } from "../../data/sales-history";
import {
  count,
  day,
  days,
  formatIsoDate,
  isoDate,
  money,
  percent,
  percentChange,
  sentence,
  shortCount,
  shortMoney,
} from "../../format";
import {
  type ForecastPoint,
  type ForecastSalesResponse,
  ForecastService,
  Level,
} from "../../gen/shopkeeper/forecast/v1/forecast_pb";
import { filter } from "../../url";
import { drawing, type Formats } from "./drawing";
import { addDays, daysBetween, PERIODS } from "./periods";
import { useQuestion } from "./question";
import { forecastRows, isWholePeriod, type Row, salesRows, total } from "./rows";

export function Ahead() {
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
  const history = useSalesHistory(complete ? (forecast.data?.points ?? []) : []);
  if (!complete)
    return (
      <Card title="Forecast">
        <Empty>
          Choose a {level === Level.COUNTRY ? "country" : "product"} above, or a series from the
          list below.
        </Empty>
      </Card>
    );
  // The previous answer stays in `data` while another loads or fails, so its name may be that of
  // another series.
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
            ? "Units sold, before returns."
            : "Amounts paid, before returns, with postage and fees: more than the revenue of other pages."
        }`
      }
    >
      <Answer
        query={{ ...forecast, isFetching: forecast.isFetching || history.isFetching }}
        isEmpty={(a) => a.points.length === 0}
      >
        {(a) => <Forecasted answer={a} history={history} />}
      </Answer>
    </Card>
  );
}

/**
 * Sales up to the first day of a forecast: as many periods as are shown, and at least as many days
 * as the forecast has.
 */
function useSalesHistory(points: ForecastPoint[]) {
  const { level, key, period } = useQuestion();
  const [start, last] = [isoDate(points[0]?.periodStart), isoDate(points.at(-1)?.periodStart)];
  const end = last && period.begin(last, 1);
  const earliest =
    start &&
    [
      period.begin(start, -period.past),
      period.begin(addDays(start, daysBetween(end, start))),
    ].toSorted()[0]!;
  const answer = useQuery({
    queryKey: ["sold", level, key, earliest, start],
    queryFn: () => dailySales(level, key, earliest, start),
    enabled: start !== "",
  });
  const sales = answer.data ?? [];
  const span = daysBetween(start, end);
  const before = sales.slice(-span);
  return {
    ...answer,
    sales,
    /** Days that the forecast covers, and the day after the last of them. */
    span,
    end,
    /**
     * Total of as many days before the forecast; undefined if the data do not reach back that far.
     */
    totalBefore: span > 0 && before.length === span ? total(before) : undefined,
  };
}
type SalesHistory = ReturnType<typeof useSalesHistory>;

function Forecasted({ answer, history }: { answer: ForecastSalesResponse; history: SalesHistory }) {
  const { period, interval } = useQuestion();
  const inUnits = answer.series?.unit === "pieces";
  const format: Formats = inUnits
    ? { full: count, short: shortCount }
    : { full: money, short: shortMoney };
  const forecast = forecastRows(answer.points, period.begin);
  const actual = salesRows(history.sales, period.begin);
  const meanOutsideInterval = forecast.some((row) => row.mean! < row.low! || row.mean! > row.high!);
  return (
    <>
      <ForecastFigures
        forecast={forecast}
        history={history}
        format={format.full}
        unit={inUnits ? "units" : undefined}
      />
      <Chart
        label={`Sales so far and forecast with ${percent(interval, 0)} interval`}
        height="tall"
        rows={[...actual, ...forecast]}
        columns={forecastColumns(format.full, interval, period === PERIODS.day)}
        download="forecast"
        option={(colors) => drawing(colors, actual, forecast, format, interval)}
      />
      {history.error && <Problem error={history.error} retry={history.refetch} />}
      {meanOutsideInterval && (
        <p class="notice below">
          The expected value is the mean, which lies outside of the interval here. Sales are above
          the median as often as below it, so the median is the better guide.
        </p>
      )}
      <ul class="reasons below">
        {answer.reasons.map((reason) => (
          <li key={reason}>{sentence(reason)}</li>
        ))}
      </ul>
    </>
  );
}

function ForecastFigures(props: {
  forecast: Row[];
  history: SalesHistory;
  format: (value: number) => string;
  unit?: string;
}) {
  const { forecast, history, format, unit } = props;
  const { period } = useQuestion();
  const expected = total(forecast.map((row) => ({ value: row.mean })));
  const wholePeriods = forecast.filter(isWholePeriod);
  const average = total(wholePeriods.map((row) => ({ value: row.mean }))) / wholePeriods.length;
  return (
    <dl class="figures">
      <Figure
        name={`Expected in ${days(history.span)}`}
        value={format(expected)}
        note={
          history.totalBefore
            ? `${percentChange(expected / history.totalBefore - 1)} on the ${days(history.span)} before`
            : `until ${formatIsoDate(addDays(history.end, -1))}`
        }
      />
      {history.totalBefore !== undefined && (
        <Figure
          name={`Sold in the ${days(history.span)} before`}
          value={format(history.totalBefore)}
          note={unit}
        />
      )}
      {wholePeriods.length > 0 && (
        <Figure
          name={`Average per ${filter("every", "day")}`}
          value={format(average)}
          note={
            wholePeriods.length < forecast.length
              ? `of the ${count(wholePeriods.length)} whole ${period.unit} ahead`
              : unit
          }
        />
      )}
    </dl>
  );
}

/** A quantile's level as text: 10 %, 2.5 %. */
const quantile = (level: number) => percent(level, Math.round(level * 1000) % 10 === 0 ? 0 : 1);

function forecastColumns(
  format: (value: number) => string,
  interval: number,
  daily: boolean,
): Column<Row>[] {
  return [
    { header: "Period from", value: (r) => r.from, render: (r) => formatIsoDate(r.from) },
    ...(daily ? [] : DAY_COLUMNS),
    { header: "Actual", value: (r) => r.actual, format },
    { header: "Expected", value: (r) => r.mean, format },
    { header: "Median", value: (r) => r.median, format },
    { header: `Low (${quantile((1 - interval) / 2)})`, value: (r) => r.low, format },
    { header: `High (${quantile((1 + interval) / 2)})`, value: (r) => r.high, format },
  ];
}

const DAY_COLUMNS: Column<Row>[] = [
  {
    header: "Days",
    value: (r) => r.days,
    format: count,
    render: (r) =>
      isWholePeriod(r) ? count(r.days) : `${count(r.days)} of ${count(r.daysInPeriod)}`,
  },
  { header: "Days of the whole period", value: (r) => r.daysInPeriod, downloadOnly: true },
];
