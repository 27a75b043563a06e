// The best-selling products.
import { Choice } from "../../components/inputs";
import { Card, ProductLink } from "../../components/layout";
import { Answer } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { useCall } from "../../data/api";
import { useRange } from "../../data/queries";
import { count, money, percent } from "../../format";
import {
  InsightsService,
  ProductOrder,
  type ProductSales,
} from "../../gen/shopkeeper/insights/v1/insights_pb";
import { filter } from "../../url";

const PRODUCT_COLUMNS: Column<ProductSales>[] = [
  {
    header: "Product",
    value: (p) => p.stockCode,
    render: (p) => <ProductLink code={p.stockCode} />,
  },
  { header: "Description", value: (p) => p.description, wide: true },
  { header: "Revenue", value: (p) => p.revenue, format: money },
  { header: "Share", value: (p) => p.revenueShare, format: (v) => percent(v, 2) },
  { header: "Units", value: (p) => Number(p.items), format: count },
  { header: "Returned", value: (p) => Number(p.returnedItems), format: count },
];

export function Products() {
  const byUnits = filter("rank", "revenue") === "pieces";
  const products = useCall(InsightsService.method.listTopProducts, {
    ...useRange(),
    order: byUnits ? ProductOrder.QUANTITY : ProductOrder.REVENUE,
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
          fallback="revenue"
          options={[
            ["revenue", "Revenue"],
            ["pieces", "Units"],
          ]}
        />
      }
    >
      <Answer query={products} isEmpty={(a) => a.products.length === 0}>
        {(a) => (
          <Table
            label="Top products"
            rows={a.products}
            columns={PRODUCT_COLUMNS}
            pageSize={8}
            download="products"
          />
        )}
      </Answer>
    </Card>
  );
}
