// One customer whole: who they are, what they bought, what they will do, what to offer.
import { skipToken, useCall } from "../api";
import { axis, Chart, timeAxis, tooltip } from "../chart";
import {
  count,
  day,
  dayOf,
  days,
  decimal,
  enumWord,
  isoDay,
  money,
  percent,
  sentence,
  shortMoney,
} from "../format";
import { ChurnService, type Reason } from "../gen/shopkeeper/churn/v1/churn_pb";
import {
  InsightsService,
  type CustomerOrder,
  type ProductSales,
} from "../gen/shopkeeper/insights/v1/insights_pb";
import { RecommendationService } from "../gen/shopkeeper/recommendation/v1/recommendation_pb";
import { Lifecycle, SegmentationService } from "../gen/shopkeeper/segmentation/v1/segmentation_pb";
import { Answer, Badge, Card, Figure, Page, ProductLink, TextFilter } from "../parts";
import { useRisks } from "../shop";
import { Table, type Column } from "../table";
import { filter, setFilters } from "../url";
import { RiskBadge, RISKS } from "./churn";
import { RECOMMENDATIONS } from "./recommendations";

export default function CustomerPage() {
  const id = filter("id");
  return (
    <Page
      title={id ? `Customer ${id}` : "Customer"}
      lead="One customer whole: what they bought, which kind they are, what they will do, and what to offer."
      filters={<TextFilter name="id" label="Customer" placeholder="Customer id" />}
    >
      <div class="cards">
        {id ? (
          <>
            <Profile id={id} />
            <Segment id={id} />
            <Risk id={id} />
            <Offers id={id} />
            <History id={id} />
          </>
        ) : (
          <Suggestions />
        )}
      </div>
    </Page>
  );
}

function Suggestions() {
  const risks = useRisks("");
  return (
    <Card
      title="Which customer?"
      note="Type an id above, or choose one of those with most value at risk"
    >
      <Answer of={risks} empty={(a) => a.items.length === 0}>
        {({ items }) => <Table label="Customers" rows={items} columns={RISKS} />}
      </Answer>
    </Card>
  );
}

function Profile({ id }: { id: string }) {
  const answer = useCall(InsightsService.method.getCustomerProfile, { customerId: id });
  return (
    <Card title="Profile">
      <Answer of={answer}>
        {({ profile: p }) =>
          p && (
            <dl class="figures">
              <Figure
                name="Revenue"
                value={money(p.sales?.revenue ?? 0)}
                note={`${money(p.sales?.returns ?? 0)} taken back`}
              />
              <Figure
                name="Orders"
                value={count(p.sales?.orders ?? 0)}
                note={`${money(p.sales?.averageOrderValue ?? 0)} on average`}
              />
              <Figure
                name="Pieces"
                value={count(p.sales?.items ?? 0)}
                note={`of ${count(p.products)} products`}
              />
              <Figure name="First order" value={day(p.firstOrderTime)} note={p.country} />
              <Figure name="Last order" value={day(p.lastOrderTime)} />
              <Figure
                name="Between orders"
                value={p.averageGapDays === undefined ? "–" : days(p.averageGapDays)}
                note="on average"
              />
            </dl>
          )
        }
      </Answer>
    </Card>
  );
}

function Segment({ id }: { id: string }) {
  const answer = useCall(SegmentationService.method.getCustomerSegment, { customerId: id });
  return (
    <Card title="Segment" span={5}>
      <Answer of={answer}>
        {({ customerSegment: s }) =>
          s && (
            <>
              <p class="tags">
                <Badge tone="plain">{s.segmentName}</Badge>
                <Badge tone="plain">RFM: {s.rfmCell}</Badge>
                <Badge tone="plain">{enumWord(Lifecycle[s.lifecycle])}</Badge>
              </p>
              <dl class="pairs">
                <dt>Last order</dt>
                <dd>{days(s.rfm?.recencyDays ?? 0)} before the model's day</dd>
                <dt>Orders</dt>
                <dd>{count(s.rfm?.frequency ?? 0)}</dd>
                <dt>Spend</dt>
                <dd>{money(s.rfm?.monetary ?? 0)}</dd>
                {s.expectedSpend !== undefined && (
                  <>
                    <dt>Expected in 90 days</dt>
                    <dd>{money(s.expectedSpend)}</dd>
                  </>
                )}
              </dl>
              <p class="strategy">{s.strategy}</p>
              {s.reasons.length > 0 && (
                <ul class="reasons below">
                  {s.reasons.map((reason) => (
                    <li key={reason}>{sentence(reason)}</li>
                  ))}
                </ul>
              )}
            </>
          )
        }
      </Answer>
    </Card>
  );
}

const REASONS: Column<Reason>[] = [
  { header: "Reason", value: (r) => r.text, wide: true },
  { header: "Moves the log-odds by", value: (r) => r.contribution, format: decimal },
];

function Risk({ id }: { id: string }) {
  const answer = useCall(ChurnService.method.getChurnRisk, { customerId: id });
  return (
    <Card title="Churn risk" note="Chance of no purchase in the next 90 days" span={7}>
      <Answer of={answer}>
        {({ churnRisk: r }) => {
          if (!r) return null;
          const rows = r.reasons;
          return (
            <>
              <dl class="figures">
                <Figure
                  name="Chance"
                  value={percent(r.probability)}
                  note={<RiskBadge level={r.riskLevel} />}
                />
                <Figure
                  name="Spend in the last year"
                  value={r.annualValue === undefined ? "–" : money(r.annualValue)}
                />
                <Figure
                  name="Value at risk"
                  value={r.valueAtRisk === undefined ? "–" : money(r.valueAtRisk)}
                  note="chance times spend"
                />
              </dl>
              <Chart
                label="How far each reason moves the risk"
                height="low"
                rows={rows}
                columns={REASONS}
                option={(colors) => ({
                  tooltip: tooltip(colors, {
                    formatter: ({ dataIndex }: { dataIndex: number }) =>
                      `${sentence(rows[dataIndex]!.text)}\n${rows[dataIndex]!.contribution > 0 ? "makes churn likelier" : "makes churn less likely"}`,
                  }),
                  grid: {
                    left: 8,
                    right: 16,
                    top: 4,
                    bottom: 4,
                    outerBoundsMode: "same",
                    outerBoundsContain: "axisLabel",
                  },
                  xAxis: { type: "value", ...axis(colors) },
                  yAxis: {
                    type: "category",
                    inverse: true,
                    data: rows.map((reason) => sentence(reason.text)),
                    ...axis(colors),
                    axisLabel: {
                      color: colors.text,
                      width: 150,
                      overflow: "break",
                      lineHeight: 14,
                    },
                  },
                  series: [
                    {
                      type: "bar",
                      barMaxWidth: 18,
                      data: rows.map((reason) => ({
                        value: reason.contribution,
                        itemStyle: { color: reason.contribution > 0 ? colors.bad : colors.good },
                      })),
                    },
                  ],
                })}
              />
            </>
          );
        }}
      </Answer>
    </Card>
  );
}

function Offers({ id }: { id: string }) {
  const answer = useCall(RecommendationService.method.recommendProducts, {
    customerId: id,
    limit: 20,
    newOnly: filter("new") === "1",
  });
  return (
    <Card
      title="What to offer"
      actions={
        <button
          type="button"
          aria-pressed={filter("new") === "1"}
          onClick={() => setFilters({ new: filter("new") === "1" ? undefined : "1" })}
        >
          New to them alone
        </button>
      }
    >
      <Answer of={answer} empty={(a) => a.recommendations.length === 0}>
        {(a) => (
          <Table
            label="Products for the customer"
            rows={a.recommendations}
            columns={RECOMMENDATIONS}
            pageSize={6}
            download={`recommendations-${id}`}
          />
        )}
      </Answer>
    </Card>
  );
}

const ORDERS: Column<CustomerOrder>[] = [
  { header: "Day", value: (o) => dayOf(o.orderTime), show: (o) => day(o.orderTime) },
  { header: "Invoice", value: (o) => o.invoice },
  {
    header: "Kind",
    value: (o) => (o.isCancellation ? "cancellation" : "order"),
    show: (o) => (
      <Badge tone={o.isCancellation ? "weak" : "plain"}>
        {o.isCancellation ? "Cancellation" : "Order"}
      </Badge>
    ),
  },
  { header: "Country", value: (o) => o.country },
  { header: "Lines", value: (o) => Number(o.lines), format: count },
  { header: "Pieces", value: (o) => Number(o.items), format: count },
  { header: "Revenue", value: (o) => o.revenue, format: money },
];
const FAVOURITES: Column<ProductSales>[] = [
  { header: "Product", value: (p) => p.stockCode, show: (p) => <ProductLink code={p.stockCode} /> },
  { header: "Description", value: (p) => p.description, wide: true },
  { header: "Revenue", value: (p) => p.revenue, format: money },
  { header: "Pieces", value: (p) => Number(p.items), format: count },
];

function History({ id }: { id: string }) {
  const orders = useCall(InsightsService.method.listCustomerOrders, {
    customerId: id,
    pageSize: 1000,
  });
  const profile = useCall(
    InsightsService.method.getCustomerProfile,
    id ? { customerId: id } : skipToken,
  );
  return (
    <>
      <Card title="Orders over time">
        <Answer of={orders} empty={(a) => a.orders.length === 0} nothing="No orders.">
          {(a) => (
            <>
              <Chart
                label="Orders and cancellations of the customer over time"
                height="low"
                rows={a.orders}
                columns={ORDERS}
                option={(colors) => ({
                  tooltip: tooltip(colors, {
                    formatter: ({ value }: { value: [string, number] }) =>
                      `${isoDay(value[0])}\n${money(value[1])}`,
                  }),
                  xAxis: timeAxis(colors),
                  yAxis: {
                    type: "value",
                    ...axis(colors),
                    axisLabel: { color: colors.muted, formatter: shortMoney },
                  },
                  series: [false, true].map((back) => ({
                    name: back ? "Taken back" : "Bought",
                    type: "bar",
                    barWidth: 5,
                    data: a.orders
                      .filter((o) => o.isCancellation === back)
                      .map((o) => [dayOf(o.orderTime), o.revenue]),
                  })),
                })}
              />
              <Table label="Orders" rows={a.orders} columns={ORDERS} download={`orders-${id}`} />
            </>
          )}
        </Answer>
      </Card>
      <Card title="What they buy most">
        <Answer of={profile} empty={(a) => !a.profile?.topProducts.length} nothing="Nothing yet.">
          {(a) => (
            <Table
              label="Products the customer buys most"
              rows={a.profile!.topProducts}
              columns={FAVOURITES}
            />
          )}
        </Answer>
      </Card>
    </>
  );
}
