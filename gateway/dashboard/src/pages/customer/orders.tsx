// A customer's orders, and the products with most revenue.
import { axis, Chart, timeAxis, tooltip } from "../../components/chart";
import { Badge, Card, ProductLink } from "../../components/layout";
import { Answer } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { skipToken, useCall } from "../../data/api";
import { count, day, isoDate, formatIsoDate, money, shortMoney } from "../../format";
import {
  type CustomerOrder,
  InsightsService,
  type ProductSales,
} from "../../gen/shopkeeper/insights/v1/insights_pb";

const ORDER_COLUMNS: Column<CustomerOrder>[] = [
  { header: "Day", value: (o) => isoDate(o.orderTime), render: (o) => day(o.orderTime) },
  { header: "Invoice", value: (o) => o.invoice },
  {
    header: "Kind",
    value: (o) => (o.isCancellation ? "cancellation" : "order"),
    render: (o) => (
      <Badge tone={o.isCancellation ? "weak" : "plain"}>
        {o.isCancellation ? "Cancellation" : "Order"}
      </Badge>
    ),
  },
  { header: "Country", value: (o) => o.country },
  { header: "Lines", value: (o) => Number(o.lines), format: count },
  { header: "Units", value: (o) => Number(o.items), format: count },
  { header: "Revenue", value: (o) => o.revenue, format: money },
];

const TOP_PRODUCT_COLUMNS: Column<ProductSales>[] = [
  {
    header: "Product",
    value: (p) => p.stockCode,
    render: (p) => <ProductLink code={p.stockCode} />,
  },
  { header: "Description", value: (p) => p.description, wide: true },
  { header: "Revenue", value: (p) => p.revenue, format: money },
  { header: "Units", value: (p) => Number(p.items), format: count },
];

export function Orders({ id }: { id: string }) {
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
        <Answer query={orders} isEmpty={(a) => a.orders.length === 0} emptyText="No orders.">
          {(a) => (
            <>
              <Chart
                label="Orders and cancellations of the customer over time"
                height="low"
                rows={a.orders}
                columns={ORDER_COLUMNS}
                option={(colors) => ({
                  tooltip: tooltip(colors, {
                    formatter: ({ value }: { value: [string, number] }) =>
                      `${formatIsoDate(value[0])}\n${money(value[1])}`,
                  }),
                  xAxis: timeAxis(colors),
                  yAxis: {
                    type: "value",
                    ...axis(colors),
                    axisLabel: { color: colors.muted, formatter: shortMoney },
                  },
                  series: [false, true].map((back) => ({
                    name: back ? "Cancellations" : "Orders",
                    type: "bar",
                    barWidth: 5,
                    data: a.orders
                      .filter((o) => o.isCancellation === back)
                      .map((o) => [isoDate(o.orderTime), o.revenue]),
                  })),
                })}
              />
              <Table
                label="Orders"
                rows={a.orders}
                columns={ORDER_COLUMNS}
                download={`orders-${id}`}
              />
            </>
          )}
        </Answer>
      </Card>
      <Card title="Top products">
        <Answer
          query={profile}
          isEmpty={(a) => !a.profile?.topProducts.length}
          emptyText="No products yet."
        >
          {(a) => (
            <Table
              label="Top products of the customer"
              rows={a.profile!.topProducts}
              columns={TOP_PRODUCT_COLUMNS}
            />
          )}
        </Answer>
      </Card>
    </>
  );
}
