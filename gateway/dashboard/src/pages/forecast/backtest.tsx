// Past forecasts against what was sold, and the errors by kind of series.
import { Chart } from "../../components/chart";
import { Card, Figure } from "../../components/layout";
import { Answer, Empty } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { skipToken, useCall } from "../../data/api";
import { metricName, metricValue } from "../../evaluation-metrics";
import { isoDate, decimal, formatIsoDate, money, percent, shortMoney } from "../../format";
import { ForecastService, Frequency, Level } from "../../gen/shopkeeper/forecast/v1/forecast_pb";
import { type Metric, ModelService } from "../../gen/shopkeeper/model/v1/model_pb";
import { drawing } from "./drawing";
import { useQuestion } from "./question";
import type { Row } from "./rows";

const METRIC_COLUMNS: Column<Metric>[] = [
  { header: "Metric", value: (m) => metricName(m.name), wide: true },
  {
    header: "Model",
    value: (m) => m.value,
    format: decimal,
    render: (m) => metricValue(m.name, m.value),
  },
  {
    header: "Baseline",
    value: (m) => m.baseline,
    format: decimal,
    render: (m) => (m.baseline === undefined ? "–" : metricValue(m.name, m.baseline)),
  },
];

export function Backtest() {
  const { level, key, period, complete } = useQuestion();
  const versions = useCall(ModelService.method.getModelStatus, { model: "forecast" });
  const hasBacktest = complete && level !== Level.PRODUCT && period.frequency !== Frequency.MONTHLY;
  const past = useCall(
    ForecastService.method.listBacktest,
    hasBacktest ? { level, key, frequency: period.frequency } : skipToken,
  );
  return (
    <>
      <Card
        title="Backtest"
        note="Past forecasts, each from the data known at its origin, against what was sold"
        span={7}
      >
        {hasBacktest ? (
          <Answer
            query={past}
            isEmpty={(a) => a.points.length === 0}
            emptyText="This version was published without an evaluation."
          >
            {(a) => {
              const rows = a.points.map((p): Row => ({
                from: isoDate(p.periodStart),
                days: 1,
                daysInPeriod: 1,
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
                      note="of sales; lower is better"
                    />
                    <Figure
                      name="Within the 80 % interval"
                      value={percent(a.coverage)}
                      note="should be 80 %"
                    />
                  </dl>
                  <Chart
                    label="Past forecasts against sales"
                    rows={rows}
                    columns={BACKTEST_COLUMNS}
                    download="backtest"
                    option={(colors) =>
                      drawing(colors, rows, rows, { full: money, short: shortMoney }, 0.8)
                    }
                  />
                </>
              );
            }}
          </Answer>
        ) : (
          <Empty>
            There are backtests of the shop and the larger countries, by day and by week.
          </Empty>
        )}
      </Card>
      <Card
        title="Errors by kind of series"
        span={5}
        note="From the evaluation of this version, with a naive baseline"
      >
        <Answer
          query={versions}
          isEmpty={(a) => !a.status?.details?.metrics.length}
          emptyText="This version was published without an evaluation."
        >
          {(a) => (
            <Table
              label="Errors of the forecast on its backtest"
              rows={a.status!.details!.metrics}
              columns={METRIC_COLUMNS}
              pageSize={12}
            />
          )}
        </Answer>
      </Card>
    </>
  );
}

const BACKTEST_COLUMNS: Column<Row>[] = [
  { header: "Period from", value: (r) => r.from, render: (r) => formatIsoDate(r.from) },
  { header: "Actual", value: (r) => r.actual, format: money },
  { header: "Forecast", value: (r) => r.mean, format: money },
  { header: "Low (10%)", value: (r) => r.low, format: money },
  { header: "High (90%)", value: (r) => r.high, format: money },
];
