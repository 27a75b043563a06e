// Which kinds of customers the shop has, and what to do about each.
import { useCall } from "../api";
import { axis, Chart, tooltip } from "../chart";
import { CountryFilter } from "../filters";
import { count, day, days, decimal, enumWord, money, percent, shortMoney } from "../format";
import { Lifecycle, SegmentationService, type Segment } from "../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { Answer, Card, CustomerLink, Figure, Page, SelectFilter } from "../parts";
import { useCustomers, type Customer } from "../shop";
import { Table, type Column } from "../table";
import { filter, numberFilter, setFilters } from "../url";

export default function Segments() {
  const segments = useCall(SegmentationService.method.listSegments, {});
  const names = segments.data?.segments ?? [];
  return (
    <Page
      title="Segments"
      lead="Which kinds of customers there are, how many, what they are worth, and what to do for them."
      filters={
        <>
          <CountryFilter />
          <SelectFilter
            name="segment"
            label="Segment"
            options={[["", "All segments"], ...names.map((s): [string, string] => [String(s.segmentId), s.name])]}
          />
          <SelectFilter
            name="lifecycle"
            label="In their life with the shop"
            options={[
              ["", "Any"],
              ...[Lifecycle.NEW, Lifecycle.ACTIVE, Lifecycle.COOLING, Lifecycle.LAPSED].map((l): [string, string] => [
                Lifecycle[l],
                enumWord(Lifecycle[l]),
              ]),
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Card
          title="Shares"
          span={6}
          note={segments.data && `As of ${day(segments.data.asOf)}, recipe ${segments.data.recipe}, silhouette ${decimal(segments.data.silhouette)}`}
        >
          <Answer of={segments} empty={(a) => a.segments.length === 0}>
            {(a) => <Shares segments={a.segments} />}
          </Answer>
        </Card>
        <Scatter />
        <Answer of={segments}>{(a) => <Profiles segments={a.segments} />}</Answer>
        <People />
      </div>
    </Page>
  );
}

const SHARES: Column<Segment>[] = [
  { header: "Segment", value: (s) => s.name },
  { header: "Customers", value: (s) => Number(s.customers), format: count },
  { header: "Share of customers", value: (s) => s.customerShare, format: percent },
  { header: "Share of spend", value: (s) => s.monetaryShare, format: percent },
  { header: "Days since last order", value: (s) => s.average?.recencyDays, format: count },
  { header: "Orders", value: (s) => s.average?.frequency, format: (v) => decimal(v, 1) },
  { header: "Spend each", value: (s) => s.average?.monetary, format: money },
];

function Shares({ segments }: { segments: Segment[] }) {
  return (
    <Chart
      label="Share of customers and share of spend of each segment"
      rows={segments}
      columns={SHARES}
      download="segments"
      onChoose={(name) => setFilters({ segment: segments.find((s) => s.name === name)?.segmentId })}
      option={(colors) => ({
        tooltip: tooltip(colors, { trigger: "axis", axisPointer: { type: "shadow" }, valueFormatter: (v: unknown) => percent(Number(v)) }),
        xAxis: { type: "value", ...axis(colors), axisLabel: { color: colors.muted, formatter: (v: number) => percent(v, 0) } },
        yAxis: { type: "category", inverse: true, data: segments.map((s) => s.name), ...axis(colors), axisLabel: { color: colors.text } },
        series: [
          { name: "Of customers", type: "bar", data: segments.map((s) => s.customerShare) },
          { name: "Of spend", type: "bar", data: segments.map((s) => s.monetaryShare) },
        ],
      })}
    />
  );
}

/** Customers as the filters have them. */
const useChosen = () =>
  useCustomers(
    filter("country"),
    numberFilter("segment", 0, 0, 1000),
    Lifecycle[filter("lifecycle") as keyof typeof Lifecycle] ?? Lifecycle.UNSPECIFIED,
  );

const PEOPLE: Column<Customer>[] = [
  { header: "Customer", value: (c) => c.segment.customerId, show: (c) => <CustomerLink id={c.segment.customerId} /> },
  { header: "Segment", value: (c) => c.segment.segmentName },
  { header: "RFM cell", value: (c) => c.segment.rfmCell },
  { header: "Life", value: (c) => enumWord(Lifecycle[c.segment.lifecycle]) },
  { header: "Days since last order", value: (c) => c.segment.rfm?.recencyDays, format: count },
  { header: "Orders", value: (c) => c.segment.rfm?.frequency, format: count },
  { header: "Spend", value: (c) => c.segment.rfm?.monetary, format: money },
  { header: "Expected in 90 days", value: (c) => c.segment.expectedSpend, format: money },
  { header: "Churn risk", value: (c) => c.risk?.probability, format: percent },
];

function Scatter() {
  const chosen = useChosen();
  return (
    <Card title="Recency, frequency and spend" span={6} note="One point a customer; larger: more orders. Spend on a scale of powers of ten.">
      <Answer of={chosen} empty={(a) => a.customers.length === 0}>
        {({ customers }) => {
          const groups = Map.groupBy(customers, (c) => c.segment.segmentId);
          return (
            <Chart
              label="Days since the last order against spend of each customer"
              rows={customers}
              columns={PEOPLE}
              option={(colors) => ({
                tooltip: tooltip(colors, {
                  formatter: ({ value }: { value: [number, number, number, string] }) =>
                    `${value[3]}\n${days(value[0])} ago\n${count(value[2])} orders\n${money(value[1])}`,
                }),
                xAxis: { type: "value", name: "days since the last order", nameLocation: "middle", nameGap: 24, ...axis(colors) },
                yAxis: { type: "log", min: 10, ...axis(colors), axisLabel: { color: colors.muted, formatter: shortMoney } },
                grid: { left: 8, right: 16, top: 32, bottom: 24, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
                series: [...groups]
                  .toSorted(([a], [b]) => a - b)
                  .map(([id, members]) => ({
                    name: members[0]!.segment.segmentName,
                    type: "scatter",
                    color: colors.series[(id - 1) % colors.series.length],
                    symbolSize: (value: number[]) => Math.min(20, 3 + 1.6 * Math.sqrt(value[2] ?? 1)),
                    itemStyle: { opacity: 0.65 },
                    data: members
                      .filter((c) => (c.segment.rfm?.monetary ?? 0) > 0)
                      .map((c) => [c.segment.rfm!.recencyDays, c.segment.rfm!.monetary, c.segment.rfm!.frequency, c.segment.customerId]),
                  })),
              })}
            />
          );
        }}
      </Answer>
    </Card>
  );
}

function Profiles({ segments }: { segments: Segment[] }) {
  const chosen = filter("segment");
  return (
    <div class="profiles">
      {segments
        .filter((s) => !chosen || String(s.segmentId) === chosen)
        .map((s) => (
          <section class="card" key={s.segmentId}>
            <h2>{s.name}</h2>
            <dl class="figures">
              <Figure name="Customers" value={count(s.customers)} note={`${percent(s.customerShare)} of all`} />
              <Figure name="Of spend" value={percent(s.monetaryShare)} note={`${money(s.average?.monetary ?? 0)} each`} />
              <Figure name="Orders" value={decimal(s.average?.frequency ?? 0, 1)} note={`last ${days(s.average?.recencyDays ?? 0)} ago`} />
            </dl>
            <p class="strategy">{s.strategy}</p>
          </section>
        ))}
    </div>
  );
}

function People() {
  const chosen = useChosen();
  return (
    <Card
      title="Customers"
      note={
        !filter("country") && chosen.data && chosen.data.total > chosen.data.customers.length
          ? `The ${count(chosen.data.customers.length)} who spent most of ${count(chosen.data.total)}`
          : "All that match the filters, by spend"
      }
    >
      <Answer of={chosen} empty={(a) => a.customers.length === 0}>
        {({ customers }) => <Table label="Customers of the segment" rows={customers} columns={PEOPLE} download="customers" />}
      </Answer>
    </Card>
  );
}
