// The series that have a forecast, the largest first.
import { Card } from "../../components/layout";
import { Answer } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { useCall } from "../../data/api";
import { count, money, sentence } from "../../format";
import { ForecastService, Level, type Series } from "../../gen/shopkeeper/forecast/v1/forecast_pb";
import { setFilters } from "../../url";
import { useQuestion } from "./question";

const SERIES_COLUMNS: Column<Series>[] = [
  {
    header: "Series",
    value: (s) => sentence(s.name || "the shop"),
    wide: true,
    render: (s) => (
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
    render: (s) => (s.unit === "pieces" ? `${count(s.recentTotal)} units` : money(s.recentTotal)),
  },
];

export function SeriesList() {
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
      <Answer query={series} isEmpty={(a) => a.series.length === 0}>
        {(a) => (
          <Table
            label="Series that can be forecast"
            rows={a.series}
            columns={SERIES_COLUMNS}
            pageSize={8}
          />
        )}
      </Answer>
    </Card>
  );
}
