// Which kinds of customers the shop has, and what to do about each.
import { Code, ConnectError } from "@connectrpc/connect";
import { useCall } from "../api";
import { axis, Chart, tooltip } from "../chart";
import { CountryFilter } from "../filters";
import { count, day, days, decimal, enumWord, money, percent, shortMoney } from "../format";
import { ModelService, type ModelInfo } from "../gen/shopkeeper/model/v1/model_pb";
import {
  Lifecycle,
  SegmentationService,
  type ListSegmentsResponse,
  type Segment,
  type SegmentMovement,
} from "../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { Answer, Card, CustomerLink, Empty, explain, Figure, Page, SelectFilter } from "../parts";
import { useCustomers, type Customer } from "../shop";
import { Table, type Column } from "../table";
import { filter, numberFilter, setFilters } from "../url";

export default function Segments() {
  const segments = useCall(SegmentationService.method.listSegments, {});
  const names = segments.data?.segments ?? [];
  const quality = useQuality(segments.data);
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
            options={[
              ["", "All segments"],
              ...names.map((s): [string, string] => [String(s.segmentId), s.name]),
            ]}
          />
          <SelectFilter
            name="lifecycle"
            label="In their life with the shop"
            options={[
              ["", "Any"],
              ...[Lifecycle.NEW, Lifecycle.ACTIVE, Lifecycle.COOLING, Lifecycle.LAPSED].map(
                (l): [string, string] => [Lifecycle[l], enumWord(Lifecycle[l])],
              ),
            ]}
          />
        </>
      }
    >
      <div class="cards">
        <Card
          title="Shares"
          span={6}
          note={
            segments.data &&
            `As of ${day(segments.data.asOf)}, recipe ${segments.data.recipe}${quality}`
          }
        >
          <Answer of={segments} empty={(a) => a.segments.length === 0}>
            {(a) => <Shares segments={a.segments} />}
          </Answer>
        </Card>
        <Scatter />
        <Answer of={segments}>{(a) => <Profiles segments={a.segments} />}</Answer>
        <Movements />
        <People />
      </div>
    </Page>
  );
}

/** How good the segments are by what their recipe aims at: clusters that stand apart, or a forecast of spend. */
function useQuality(of: ListSegmentsResponse | undefined): string {
  const details = useCall(ModelService.method.getModelStatus, { model: "segmentation" }).data
    ?.status?.details;
  if (!of) return "";
  if (CLUSTERS.has(of.recipe)) return `, silhouette ${decimal(of.silhouette)}`;
  const explained =
    details?.version === of.model?.version &&
    details?.metrics.find((m) => m.name === "spend_explained");
  if (!explained) return "";
  const naive =
    explained.baseline === undefined
      ? ""
      : `; fifths by spend explain ${percent(explained.baseline, 0)}`;
  return `, explains ${percent(explained.value, 0)} of the variance of log spend in the next 90 days${naive}`;
}
const CLUSTERS = new Set(["rfm3", "value4"]);

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
        tooltip: tooltip(colors, {
          trigger: "axis",
          axisPointer: { type: "shadow" },
          valueFormatter: (v: unknown) => percent(Number(v)),
        }),
        xAxis: {
          type: "value",
          ...axis(colors),
          axisLabel: { color: colors.muted, formatter: (v: number) => percent(v, 0) },
        },
        yAxis: {
          type: "category",
          inverse: true,
          data: segments.map((s) => s.name),
          ...axis(colors),
          axisLabel: { color: colors.text },
        },
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
  {
    header: "Customer",
    value: (c) => c.segment.customerId,
    show: (c) => <CustomerLink id={c.segment.customerId} />,
  },
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
    <Card
      title="Recency, frequency and spend"
      span={6}
      note="One point a customer; larger: more orders. Spend on a scale of powers of ten."
    >
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
                xAxis: {
                  type: "value",
                  name: "days since the last order",
                  nameLocation: "middle",
                  nameGap: 24,
                  ...axis(colors),
                },
                yAxis: {
                  type: "log",
                  min: 10,
                  ...axis(colors),
                  axisLabel: { color: colors.muted, formatter: shortMoney },
                },
                grid: {
                  left: 8,
                  right: 16,
                  top: 32,
                  bottom: 24,
                  outerBoundsMode: "same",
                  outerBoundsContain: "axisLabel",
                },
                series: [...groups]
                  .toSorted(([a], [b]) => a - b)
                  .map(([id, members]) => ({
                    name: members[0]!.segment.segmentName,
                    type: "scatter",
                    color: colors.series[(id - 1) % colors.series.length],
                    symbolSize: (value: number[]) =>
                      Math.min(20, 3 + 1.6 * Math.sqrt(value[2] ?? 1)),
                    itemStyle: { opacity: 0.65 },
                    data: members
                      .filter((c) => (c.segment.rfm?.monetary ?? 0) > 0)
                      .map((c) => [
                        c.segment.rfm!.recencyDays,
                        c.segment.rfm!.monetary,
                        c.segment.rfm!.frequency,
                        c.segment.customerId,
                      ]),
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
              <Figure
                name="Customers"
                value={count(s.customers)}
                note={`${percent(s.customerShare)} of all`}
              />
              <Figure
                name="Of spend"
                value={percent(s.monetaryShare)}
                note={`${money(s.average?.monetary ?? 0)} each`}
              />
              <Figure
                name="Orders"
                value={decimal(s.average?.frequency ?? 0, 1)}
                note={`last ${days(s.average?.recencyDays ?? 0)} ago`}
              />
            </dl>
            <p class="strategy">{s.strategy}</p>
          </section>
        ))}
    </div>
  );
}

/** Segments of a recipe are numbered by value, 1 the highest; `undefined` is none. Those of two recipes have no order. */
type Direction = "up" | "down" | "stayed" | "both" | "new" | "gone";
function direction(
  { fromSegmentId: from, toSegmentId: to }: SegmentMovement,
  ordered: boolean,
): Direction {
  if (from === undefined) return "new";
  if (to === undefined) return "gone";
  if (!ordered) return "both";
  return to < from ? "up" : to > from ? "down" : "stayed";
}
const DIRECTIONS: [Direction, string][] = [
  ["up", "Moved up"],
  ["down", "Moved down"],
  ["stayed", "Stayed"],
  ["both", "In both"],
  ["new", "New"],
  ["gone", "Gone"],
];
const NEW = "New";
const GONE = "Gone";

const movementColumns = (ordered: boolean): Column<SegmentMovement>[] => [
  { header: "Then", value: (m) => m.fromSegmentName || NEW },
  { header: "Now", value: (m) => m.toSegmentName || GONE },
  { header: "Direction", value: (m) => direction(m, ordered) },
  { header: "Customers", value: (m) => Number(m.customers), format: count },
  { header: "Spend", value: (m) => m.monetary, format: money },
];

function Movements() {
  const answer = useCall(SegmentationService.method.listSegmentMovements, {
    sinceVersion: filter("since"),
  });
  const versions = useCall(ModelService.method.listModelVersions, {
    model: "segmentation",
    pageSize: 100,
  });
  const recipe = (model?: ModelInfo) =>
    versions.data?.versions.find((v) => v.version === model?.version)?.recipe;
  const told = (model?: ModelInfo) =>
    `${model?.version} (recipe ${recipe(model) ?? "unknown"}, as of ${day(model?.asOf)})`;
  const { since, model } = answer.data ?? {};
  const ordered = recipe(since) !== undefined && recipe(since) === recipe(model);
  const others = versions.data?.versions.filter((v) => v.version !== model?.version) ?? [];
  const problem = answer.error && ConnectError.from(answer.error);
  return (
    <Card
      title="Movement between segments"
      note={
        since && !problem && !versions.isPending
          ? `From ${told(since)} to ${told(model)}: customers by their segment then and now.${
              ordered
                ? ""
                : " The recipes differ, so a segment of the one is neither above nor below one of the other."
            }`
          : "Customers by their segment then and now"
      }
      actions={
        others.length > 1 && (
          <form class="filters" onSubmit={(event) => event.preventDefault()}>
            <SelectFilter
              name="since"
              label="Since"
              options={[
                ["", "The model before"],
                ...others.map((v): [string, string] => [
                  v.version,
                  `${day(v.asOf)}, ${v.recipe}, ${v.version.split("-").at(-1)!.slice(0, 6)}`,
                ]),
              ]}
            />
          </form>
        )
      }
    >
      {problem?.code === Code.FailedPrecondition || problem?.code === Code.InvalidArgument ? (
        <Empty>{explain(problem)}</Empty>
      ) : (
        <Answer of={{ ...answer, data: versions.isPending ? undefined : answer.data }}>
          {({ since: earlier, movements }) =>
            earlier ? (
              <>
                <dl class="figures">
                  {DIRECTIONS.filter(([which]) =>
                    ordered ? which !== "both" : !["up", "down", "stayed"].includes(which),
                  ).map(([which, name]) => {
                    const those = movements.filter((m) => direction(m, ordered) === which);
                    return (
                      <Figure
                        key={which}
                        name={name}
                        value={count(those.reduce((all, m) => all + Number(m.customers), 0))}
                        note={`${money(those.reduce((all, m) => all + m.monetary, 0))} spent`}
                      />
                    );
                  })}
                </dl>
                <Matrix movements={movements} ordered={ordered} />
              </>
            ) : (
              <Empty>
                This is the first model. Movement shows once another one has been trained.
              </Empty>
            )
          }
        </Answer>
      )}
    </Card>
  );
}

const narrow = matchMedia("(max-width: 760px)");

function Matrix({ movements, ordered }: { movements: SegmentMovement[]; ordered: boolean }) {
  // In the order of value, which is that of the answer; those who were or are in none come last.
  const then = [...new Map(movements.map((m) => [m.fromSegmentId, m.fromSegmentName || NEW]))];
  const now = [...new Map(movements.map((m) => [m.toSegmentId, m.toSegmentName || GONE]))].toSorted(
    ([a = Infinity], [b = Infinity]) => a - b,
  );
  const place = (of: typeof then, id: number | undefined) =>
    of.findIndex(([other]) => other === id);
  const before = new Map(
    then.map(([id]) => [
      id,
      movements
        .filter((m) => m.fromSegmentId === id)
        .reduce((all, m) => all + Number(m.customers), 0),
    ]),
  );
  const share = (m: SegmentMovement) => Number(m.customers) / (before.get(m.fromSegmentId) || 1);
  const tone = { up: 1, stayed: 0, both: 0, new: 0, gone: 0, down: -1 };
  return (
    <Chart
      label="Customers by their segment then, downwards, and now, from left to right"
      rows={movements}
      columns={movementColumns(ordered)}
      download="segment-movements"
      onChoose={(_name, at) => {
        const to = movements[at]?.toSegmentId;
        if (to !== undefined) setFilters({ segment: to });
      }}
      option={(colors) => ({
        tooltip: tooltip(colors, {
          formatter: ({ dataIndex }: { dataIndex: number }) => {
            const m = movements[dataIndex]!;
            const from = m.fromSegmentName || NEW;
            return `${from} → ${m.toSegmentName || GONE}\n${count(m.customers)} customers, ${percent(share(m))} of ${from}\n${money(m.monetary)} spent`;
          },
        }),
        grid: {
          left: 8,
          right: 8,
          top: 4,
          bottom: 4,
          outerBoundsMode: "same",
          outerBoundsContain: "axisLabel",
        },
        xAxis: {
          type: "category",
          position: "top",
          data: now.map(([, name]) => name),
          ...axis(colors),
          axisLabel: { color: colors.text, interval: 0, rotate: narrow.matches ? 60 : 0 },
        },
        yAxis: {
          type: "category",
          inverse: true,
          data: then.map(([, name]) => name),
          ...axis(colors),
          axisLabel: { color: colors.text },
        },
        visualMap: [
          {
            show: false,
            type: "continuous",
            dimension: 3,
            min: -1,
            max: 1,
            inRange: { color: [colors.down, colors.tint, colors.up] },
          },
          {
            show: false,
            type: "continuous",
            dimension: 2,
            min: 0,
            max: 1,
            inRange: { colorAlpha: [0.3, 1] },
          },
        ],
        series: [
          {
            type: "heatmap",
            data: movements.map((m) => [
              place(now, m.toSegmentId),
              place(then, m.fromSegmentId),
              share(m),
              tone[direction(m, ordered)],
            ]),
            itemStyle: { borderColor: colors.surface, borderWidth: 2 },
            label: {
              show: true,
              color: colors.text,
              formatter: ({ dataIndex }) => count(movements[dataIndex]!.customers),
            },
          },
        ],
      })}
    />
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
        {({ customers }) => (
          <Table
            label="Customers of the segment"
            rows={customers}
            columns={PEOPLE}
            download="customers"
          />
        )}
      </Answer>
    </Card>
  );
}
