// What the shop sells, when, where and of what.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { createClient, ConnectError } from "@connectrpc/connect";
import { Download } from "lucide-preact";
import { useCallback, useState } from "preact/hooks";
import { skipToken, transport, useCall } from "../api";
import { axis, Chart, timeAxis, tooltip } from "../chart";
import { save } from "../download";
import { ClearFilters, CountryFilter, RangeFilter } from "../filters";
import {
  change,
  count,
  day,
  dayOf,
  isoDay,
  money,
  percent,
  shortCount,
  shortMoney,
} from "../format";
import {
  ExportFormat,
  Frequency,
  InsightsService,
  ProductOrder,
  type CountrySales,
  type CustomerGrowth,
  type PeriodSales,
  type ProductSales,
  type SegmentSales,
} from "../gen/shopkeeper/insights/v1/insights_pb";
import { countryCode, registerWorld } from "../map";
import { Answer, Card, Choice, Figure, Page, ProductLink } from "../parts";
import { rangeBefore, useRange } from "../shop";
import type { Column } from "../table";
import { Table } from "../table";
import { filter, setFilters } from "../url";

const FREQUENCIES: Record<string, Frequency> = {
  day: Frequency.DAILY,
  week: Frequency.WEEKLY,
  month: Frequency.MONTHLY,
  year: Frequency.YEARLY,
};

export default function Overview() {
  return (
    <Page
      title="Overview"
      lead="What the shop sold, when, where and of what. Filters act on every figure of this page and on the download."
      filters={
        <>
          <CountryFilter />
          <RangeFilter />
          <ClearFilters />
          <ExportButton />
        </>
      }
    >
      <div class="cards">
        <Summary />
        <Trend />
        <Countries />
        <Products />
        <Segments />
        <Growth />
        <Cohorts />
      </div>
    </Page>
  );
}

function Summary() {
  const range = useRange();
  const now = useCall(InsightsService.method.getSummary, range);
  const compared =
    range.startTime && range.endTime
      ? { countries: range.countries, ...rangeBefore(range.startTime, range.endTime) }
      : skipToken;
  const before = useCall(InsightsService.method.getSummary, compared).data?.sales;
  const against = (value: number, was: number | undefined) => {
    if (compared === skipToken || !was) return {};
    const moved = value / was - 1;
    return {
      note: `${change(moved)} on as long before`,
      tone: moved < 0 ? ("bad" as const) : ("good" as const),
    };
  };
  return (
    <Card
      title="Figures"
      note={now.data && `Data from ${day(now.data.firstTime)} to ${day(now.data.lastTime)}`}
    >
      <Answer of={now}>
        {({ sales }) =>
          sales && (
            <dl class="figures">
              <Figure
                name="Revenue"
                value={money(sales.revenue)}
                {...against(sales.revenue, before?.revenue)}
              />
              <Figure
                name="Orders"
                value={count(sales.orders)}
                {...against(Number(sales.orders), Number(before?.orders))}
              />
              <Figure
                name="Known customers"
                value={count(sales.customers)}
                {...against(Number(sales.customers), Number(before?.customers))}
              />
              <Figure
                name="Pieces sold"
                value={count(sales.items)}
                {...against(Number(sales.items), Number(before?.items))}
              />
              <Figure
                name="Average order"
                value={money(sales.averageOrderValue)}
                {...against(sales.averageOrderValue, before?.averageOrderValue)}
              />
              <Figure
                name="Returned"
                value={percent(sales.returnsRate)}
                note={`${money(sales.returns)} taken back`}
              />
            </dl>
          )
        }
      </Answer>
    </Card>
  );
}

const TREND: Column<PeriodSales>[] = [
  { header: "Period from", value: (p) => dayOf(p.periodStart), show: (p) => day(p.periodStart) },
  { header: "Revenue", value: (p) => p.sales?.revenue, format: money },
  { header: "Orders", value: (p) => Number(p.sales?.orders), format: count },
  { header: "Customers", value: (p) => Number(p.sales?.customers), format: count },
  { header: "Pieces", value: (p) => Number(p.sales?.items), format: count },
];

function Trend() {
  const frequency = FREQUENCIES[filter("every", "week")] ?? Frequency.WEEKLY;
  const trend = useCall(InsightsService.method.listSalesTrend, {
    ...useRange(),
    frequency,
    pageSize: 1000,
  });
  return (
    <Card
      title="Revenue over time"
      actions={
        <Choice
          name="every"
          label="One point a"
          otherwise="week"
          options={[
            ["day", "Day"],
            ["week", "Week"],
            ["month", "Month"],
            ["year", "Year"],
          ]}
        />
      }
    >
      <Answer of={trend} empty={(a) => a.periods.length === 0}>
        {({ periods }) => (
          <Chart
            label={`Revenue per ${filter("every", "week")}`}
            rows={periods}
            columns={TREND}
            download="trend"
            option={(colors) => ({
              tooltip: tooltip(colors, { trigger: "axis" }),
              xAxis: timeAxis(colors),
              yAxis: [
                {
                  type: "value",
                  ...axis(colors),
                  axisLabel: { color: colors.muted, formatter: shortMoney },
                },
                {
                  type: "value",
                  ...axis(colors, { splitLine: { show: false } }),
                  axisLabel: { color: colors.muted, formatter: shortCount },
                },
              ],
              dataZoom: [{ type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseMove: false }],
              series: [
                {
                  name: "Revenue",
                  type: "line",
                  showSymbol: false,
                  areaStyle: { opacity: 0.12 },
                  tooltip: { valueFormatter: (v) => money(Number(v)) },
                  data: periods.map((p) => [dayOf(p.periodStart), p.sales?.revenue ?? 0]),
                },
                {
                  name: "Orders (right)",
                  type: "line",
                  showSymbol: false,
                  yAxisIndex: 1,
                  lineStyle: { width: 1.5, type: "dashed" },
                  tooltip: { valueFormatter: (v) => count(Number(v)) },
                  data: periods.map((p) => [dayOf(p.periodStart), Number(p.sales?.orders ?? 0)]),
                },
              ],
            })}
          />
        )}
      </Answer>
    </Card>
  );
}

const COUNTRIES: Column<CountrySales>[] = [
  { header: "Country", value: (c) => c.country },
  { header: "Revenue", value: (c) => c.sales?.revenue, format: money },
  { header: "Share", value: (c) => c.revenueShare, format: percent },
  { header: "Orders", value: (c) => Number(c.sales?.orders), format: count },
  { header: "Customers", value: (c) => Number(c.sales?.customers), format: count },
  { header: "Returned", value: (c) => c.sales?.returnsRate, format: percent },
];

function Countries() {
  const sales = useCall(InsightsService.method.listSalesByCountry, {
    ...useRange(),
    pageSize: 1000,
  });
  const [outlined, setOutlined] = useState<ReadonlySet<string>>(new Set());
  const prepare = useCallback(
    async (echarts: typeof import("../echarts")) => setOutlined(await registerWorld(echarts)),
    [],
  );
  const choose = (country: string) =>
    setFilters({ country: filter("country") === country ? undefined : country });
  return (
    <>
      <Card
        title="Countries on the map"
        note="Revenue, on a scale of powers of ten. Choose one to filter by it."
        span={7}
      >
        <Answer of={sales} empty={(a) => a.countries.length === 0}>
          {({ countries }) => {
            const placed = countries
              .map((c) => ({
                code: countryCode(c.country),
                country: c.country,
                revenue: c.sales?.revenue ?? 0,
              }))
              .filter((c) => c.revenue > 0);
            const off = outlined.size ? placed.filter((c) => !c.code || !outlined.has(c.code)) : [];
            const most = Math.max(10, ...placed.map((c) => c.revenue));
            return (
              <>
                <Chart
                  label="Revenue of each country on a map of the world"
                  rows={countries}
                  columns={COUNTRIES}
                  download="countries"
                  prepare={prepare}
                  onChoose={(code) => {
                    const hit = placed.find((c) => c.code === code);
                    if (hit) choose(hit.country);
                  }}
                  option={(colors) => ({
                    tooltip: tooltip(colors, {
                      formatter: ({ name }: { name: string }) => {
                        const hit = placed.find((c) => c.code === name);
                        return hit ? `${hit.country}: ${money(hit.revenue)}` : "";
                      },
                    }),
                    visualMap: {
                      type: "continuous",
                      min: 2,
                      max: Math.log10(most),
                      calculable: false,
                      orient: "horizontal",
                      left: 0,
                      bottom: 0,
                      itemHeight: 90,
                      itemWidth: 10,
                      text: [shortMoney(most), shortMoney(100)],
                      textStyle: { color: colors.muted },
                      inRange: { color: [colors.line, colors.accent] },
                    },
                    series: [
                      {
                        type: "map",
                        map: "world",
                        roam: false,
                        selectedMode: false,
                        showLegendSymbol: false,
                        top: 0,
                        bottom: 24,
                        left: 0,
                        right: 0,
                        itemStyle: {
                          areaColor: "transparent",
                          borderColor: colors.muted,
                          borderWidth: 0.4,
                        },
                        emphasis: {
                          label: { show: false },
                          itemStyle: { areaColor: colors.series[1] },
                        },
                        data: placed.map((c) => ({
                          name: c.code ?? "",
                          value: Math.log10(Math.max(100, c.revenue)),
                        })),
                      },
                    ],
                  })}
                />
                {off.length > 0 && (
                  <p class="quiet">
                    Too small for this map, or no country: {off.map((c) => c.country).join(", ")}.
                  </p>
                )}
              </>
            );
          }}
        </Answer>
      </Card>
      <Card title="Countries by revenue" note="On a scale of powers of ten" span={5}>
        <Answer of={sales} empty={(a) => a.countries.length === 0}>
          {({ countries }) => {
            const top = countries.filter((c) => (c.sales?.revenue ?? 0) > 0).slice(0, 12);
            return (
              <Chart
                label="The countries with most revenue"
                rows={countries}
                columns={COUNTRIES}
                download="countries"
                onChoose={choose}
                option={(colors) => ({
                  tooltip: tooltip(colors, { valueFormatter: (v: unknown) => money(Number(v)) }),
                  grid: {
                    left: 8,
                    right: 64,
                    top: 4,
                    bottom: 4,
                    outerBoundsMode: "same",
                    outerBoundsContain: "axisLabel",
                  },
                  xAxis: { type: "log", logBase: 10, show: false, min: 1 },
                  yAxis: {
                    type: "category",
                    inverse: true,
                    data: top.map((c) => c.country),
                    ...axis(colors),
                    axisLabel: { color: colors.text },
                  },
                  series: [
                    {
                      type: "bar",
                      data: top.map((c) => c.sales?.revenue ?? 0),
                      itemStyle: { borderRadius: [0, 3, 3, 0] },
                      label: {
                        show: true,
                        position: "right",
                        color: colors.muted,
                        formatter: ({ value }) => shortMoney(Number(value)),
                      },
                    },
                  ],
                })}
              />
            );
          }}
        </Answer>
      </Card>
    </>
  );
}

const PRODUCTS: Column<ProductSales>[] = [
  { header: "Product", value: (p) => p.stockCode, show: (p) => <ProductLink code={p.stockCode} /> },
  { header: "Description", value: (p) => p.description, wide: true },
  { header: "Revenue", value: (p) => p.revenue, format: money },
  { header: "Share", value: (p) => p.revenueShare, format: (v) => percent(v, 2) },
  { header: "Pieces", value: (p) => Number(p.items), format: count },
  { header: "Returned", value: (p) => Number(p.returnedItems), format: count },
];

function Products() {
  const pieces = filter("rank", "revenue") === "pieces";
  const products = useCall(InsightsService.method.listTopProducts, {
    ...useRange(),
    order: pieces ? ProductOrder.QUANTITY : ProductOrder.REVENUE,
    pageSize: 200,
  });
  return (
    <Card
      title="Products"
      note={
        products.data &&
        `The first ${count(products.data.products.length)} of ${count(products.data.totalSize)}`
      }
      span={8}
      actions={
        <Choice
          name="rank"
          label="Ranked by"
          otherwise="revenue"
          options={[
            ["revenue", "Revenue"],
            ["pieces", "Pieces"],
          ]}
        />
      }
    >
      <Answer of={products} empty={(a) => a.products.length === 0}>
        {(a) => (
          <Table
            label="Top products"
            rows={a.products}
            columns={PRODUCTS}
            pageSize={8}
            download="products"
          />
        )}
      </Answer>
    </Card>
  );
}

const SEGMENTS: Column<SegmentSales>[] = [
  { header: "Segment", value: (s) => s.segmentName },
  { header: "Revenue", value: (s) => s.sales?.revenue, format: money },
  { header: "Share", value: (s) => s.revenueShare, format: percent },
  { header: "Customers", value: (s) => Number(s.sales?.customers), format: count },
];

function Segments() {
  const segments = useCall(InsightsService.method.listRevenueBySegment, useRange());
  return (
    <Card title="Revenue by segment" note="As customers are segmented now" span={4}>
      <Answer of={segments} empty={(a) => a.segments.length === 0}>
        {(a) => (
          <Chart
            label="Revenue of each customer segment"
            rows={a.segments}
            columns={SEGMENTS}
            option={(colors) => ({
              tooltip: tooltip(colors, { valueFormatter: (v: unknown) => money(Number(v)) }),
              grid: {
                left: 8,
                right: 56,
                top: 4,
                bottom: 4,
                outerBoundsMode: "same",
                outerBoundsContain: "axisLabel",
              },
              xAxis: { type: "value", show: false },
              yAxis: {
                type: "category",
                inverse: true,
                data: a.segments.map((s) => s.segmentName),
                ...axis(colors),
                axisLabel: { color: colors.text },
              },
              series: [
                {
                  type: "bar",
                  data: a.segments.map((s) => s.sales?.revenue ?? 0),
                  label: {
                    show: true,
                    position: "right",
                    color: colors.muted,
                    formatter: ({ value }) => shortMoney(Number(value)),
                  },
                },
              ],
            })}
          />
        )}
      </Answer>
    </Card>
  );
}

const GROWTH: Column<CustomerGrowth>[] = [
  { header: "Period from", value: (p) => dayOf(p.periodStart), show: (p) => day(p.periodStart) },
  { header: "New customers", value: (p) => Number(p.newCustomers), format: count },
  { header: "Returning customers", value: (p) => Number(p.returningCustomers), format: count },
  { header: "Revenue of new", value: (p) => p.newRevenue, format: money },
  { header: "Revenue of returning", value: (p) => p.returningRevenue, format: money },
];

function Growth() {
  const frequency = FREQUENCIES[filter("every", "week")] ?? Frequency.WEEKLY;
  const growth = useCall(InsightsService.method.listCustomerGrowth, {
    ...useRange(),
    frequency,
    pageSize: 1000,
  });
  return (
    <Card title="New and returning customers" span={6}>
      <Answer of={growth} empty={(a) => a.periods.length === 0}>
        {({ periods }) => (
          <Chart
            label="New and returning customers over time"
            rows={periods}
            columns={GROWTH}
            download="growth"
            option={(colors) => ({
              tooltip: tooltip(colors, {
                trigger: "axis",
                valueFormatter: (v: unknown) => count(Number(v)),
              }),
              xAxis: timeAxis(colors),
              yAxis: { type: "value", ...axis(colors) },
              series: (["newCustomers", "returningCustomers"] as const).map((which) => ({
                name: which === "newCustomers" ? "New" : "Returning",
                type: "bar",
                stack: "customers",
                barMaxWidth: 24,
                data: periods.map((p) => [dayOf(p.periodStart), Number(p[which])]),
              })),
            })}
          />
        )}
      </Answer>
    </Card>
  );
}

interface CohortCell {
  cohort: string;
  offset: number;
  customers: number;
  retention: number;
}
const COHORTS: Column<CohortCell>[] = [
  { header: "First order in", value: (c) => c.cohort, show: (c) => isoDay(c.cohort) },
  { header: "Months later", value: (c) => c.offset, format: count },
  { header: "Customers", value: (c) => c.customers, format: count },
  { header: "Bought again", value: (c) => c.retention, format: percent },
];

function Cohorts() {
  const cohorts = useCall(InsightsService.method.listCohortRetention, {
    ...useRange(),
    pageSize: 1000,
  });
  return (
    <Card
      title="Who comes back"
      note="Customers by the month of their first order, and how many bought again later"
      span={6}
    >
      <Answer
        of={cohorts}
        empty={(a) => !a.cohorts.some((c) => c.periods.some((p) => p.offset > 0))}
      >
        {(a) => {
          // Those of the last month have had no later one.
          const shown = a.cohorts.filter(
            (c) => c.customers > 0n && c.periodStart && c.periods.some((p) => p.offset > 0),
          );
          const months = shown.map((c) =>
            timestampDate(c.periodStart!).toLocaleString(undefined, {
              month: "short",
              year: "2-digit",
              timeZone: "UTC",
            }),
          );
          const cells = shown.flatMap((c) =>
            c.periods
              .filter((p) => p.offset > 0)
              .map((p) => ({
                cohort: dayOf(c.periodStart),
                offset: p.offset,
                customers: Number(p.customers),
                retention: p.retention,
              })),
          );
          const row = new Map(shown.map((c, at) => [dayOf(c.periodStart), at]));
          const last = Math.max(1, ...cells.map((c) => c.offset));
          return (
            <Chart
              label="Part of each month's new customers who bought again, by months since"
              rows={cells}
              columns={COHORTS}
              download="cohorts"
              option={(colors) => ({
                tooltip: tooltip(colors, {
                  formatter: ({ value }: { value: [number, number, number] }) =>
                    `${months[value[1]]}, ${value[0] + 1} months later: ${percent(value[2])}`,
                }),
                grid: {
                  left: 8,
                  right: 8,
                  top: 4,
                  bottom: 24,
                  outerBoundsMode: "same",
                  outerBoundsContain: "axisLabel",
                },
                xAxis: {
                  type: "category",
                  data: Array.from({ length: last }, (_, at) => String(at + 1)),
                  name: "months later",
                  nameLocation: "middle",
                  nameGap: 24,
                  ...axis(colors),
                },
                yAxis: { type: "category", inverse: true, data: months, ...axis(colors) },
                visualMap: {
                  show: false,
                  min: 0,
                  max: Math.max(0.01, ...cells.map((c) => c.retention)),
                  inRange: { color: [colors.surface, colors.tint] },
                },
                series: [
                  {
                    type: "heatmap",
                    data: cells.map((c) => [c.offset - 1, row.get(c.cohort) ?? 0, c.retention]),
                    label: {
                      show: true,
                      fontSize: 10,
                      color: colors.text,
                      formatter: ({ value }) => percent((value as number[])[2] ?? 0, 0),
                    },
                  },
                ],
              })}
            />
          );
        }}
      </Answer>
    </Card>
  );
}

/** The lines themselves, as the filters have them. */
function ExportButton() {
  const range = useRange();
  const [state, setState] = useState<{ part?: number; problem?: string }>({});
  const parquet = filter("format") === "parquet";
  async function run() {
    setState({ part: 0 });
    try {
      const pieces: BlobPart[] = [];
      const format = parquet ? ExportFormat.PARQUET : ExportFormat.CSV;
      const lines = createClient(InsightsService, transport).exportTransactions(
        { ...range, format },
        { timeoutMs: 600_000 },
      );
      for await (const piece of lines) {
        pieces.push(piece.data as Uint8Array<ArrayBuffer>);
        setState({ part: Number(piece.rows) / Math.max(1, Number(piece.totalRows)) });
      }
      save(
        `transactions.${parquet ? "parquet" : "csv"}`,
        pieces,
        parquet ? "application/vnd.apache.parquet" : "text/csv",
      );
      setState({});
    } catch (error) {
      setState({ problem: ConnectError.from(error).rawMessage });
    }
  }
  return (
    <>
      <label>
        Download as
        <select
          value={parquet ? "parquet" : "csv"}
          onChange={(e) =>
            setFilters({ format: e.currentTarget.value === "csv" ? undefined : "parquet" })
          }
        >
          <option value="csv">CSV</option>
          <option value="parquet">Parquet</option>
        </select>
      </label>
      <button type="button" disabled={state.part !== undefined} onClick={() => void run()}>
        <Download aria-hidden="true" />
        {state.part === undefined ? "Download lines" : `Downloading ${percent(state.part, 0)}`}
      </button>
      {state.problem && (
        <span class="bad" role="alert">
          {state.problem}
        </span>
      )}
    </>
  );
}
