// Products bought together with a product, and products similar to it.
import { axis, Chart, tooltip } from "../../components/chart";
import { Card, ProductLink } from "../../components/layout";
import { Answer, Empty } from "../../components/states";
import { type Column, Table } from "../../components/table";
import { skipToken, useCall } from "../../data/api";
import { useProductName } from "../../data/queries";
import { count, decimal, percent } from "../../format";
import {
  type AssociationRule,
  RecommendationService,
  type SimilarProduct,
} from "../../gen/shopkeeper/recommendation/v1/recommendation_pb";
import { filter, numberFilter, setFilters } from "../../url";

const SIMILAR_COLUMNS: Column<SimilarProduct>[] = [
  {
    header: "Product",
    value: (p) => p.stockCode,
    render: (p) => <ProductLink code={p.stockCode} />,
  },
  { header: "Description", value: (p) => p.description, wide: true },
  { header: "Similarity", value: (p) => p.similarity, format: decimal },
];

export const RULE_COLUMNS: Column<AssociationRule>[] = [
  {
    header: "Product",
    value: (r) => r.stockCode,
    render: (r) => <ProductLink code={r.stockCode} />,
  },
  { header: "Description", value: (r) => r.description, wide: true },
  { header: "Support", value: (r) => r.support, format: (v) => percent(v, 2) },
  { header: "Confidence", value: (r) => r.confidence, format: percent },
  { header: "Lift", value: (r) => r.lift, format: (v) => decimal(v, 1) },
  { header: "Orders with both", value: (r) => Number(r.orders), format: count },
];

export function ForProduct() {
  const stockCode = filter("product");
  const productName = useProductName(stockCode) || stockCode;
  const similar = useCall(
    RecommendationService.method.listSimilarProducts,
    stockCode ? { stockCode, limit: 20 } : skipToken,
  );
  const rules = useCall(
    RecommendationService.method.listBoughtTogether,
    stockCode
      ? {
          stockCode,
          limit: 50,
          minConfidence: numberFilter("confidence", 0, 0, 100) / 100,
          minLift: numberFilter("lift", 0, 0, 1000),
        }
      : skipToken,
  );
  if (!stockCode)
    return (
      <Card title="For a product">
        <Empty>Type a product above.</Empty>
      </Card>
    );
  return (
    <>
      <Card
        title={`In the same order as ${productName}`}
        note="A lift of 1 means no association; above 1 the products are bought together more often than by chance."
      >
        <Answer query={rules} isEmpty={(a) => a.rules.length === 0}>
          {(a) => (
            <Table
              label="Bundles with the product"
              rows={a.rules}
              columns={RULE_COLUMNS}
              download={`bundles-${stockCode}`}
            />
          )}
        </Answer>
      </Card>
      <Card
        title="Confidence against lift"
        note="One point per product. Larger points: more orders with both."
        span={6}
      >
        <Answer query={rules} isEmpty={(a) => a.rules.length === 0}>
          {(a) => (
            <Chart
              label="Confidence against lift of the bundles"
              rows={a.rules}
              columns={RULE_COLUMNS}
              onChoose={(name) => setFilters({ product: name })}
              option={(colors) => ({
                tooltip: tooltip(colors, {
                  formatter: ({ dataIndex }: { dataIndex: number }) => {
                    const rule = a.rules[dataIndex]!;
                    return `${rule.description}\nconfidence ${percent(rule.confidence)}, lift ${decimal(rule.lift, 1)}`;
                  },
                }),
                grid: {
                  left: 8,
                  right: 16,
                  top: 24,
                  bottom: 24,
                  outerBoundsMode: "same",
                  outerBoundsContain: "axisLabel",
                },
                xAxis: {
                  type: "value",
                  name: "confidence",
                  nameLocation: "middle",
                  nameGap: 24,
                  ...axis(colors),
                  axisLabel: { color: colors.muted, formatter: (v: number) => percent(v, 0) },
                },
                yAxis: { type: "value", name: "lift", ...axis(colors) },
                series: [
                  {
                    type: "scatter",
                    itemStyle: { opacity: 0.7 },
                    symbolSize: (value: number[]) => Math.min(28, 4 + Math.sqrt(value[2] ?? 0)),
                    data: a.rules.map((r) => ({
                      name: r.stockCode,
                      value: [r.confidence, r.lift, Number(r.orders)],
                    })),
                  },
                ],
              })}
            />
          )}
        </Answer>
      </Card>
      <Card
        title={`Similar to ${productName}`}
        note="Bought by the same customers, not only in the same order"
        span={6}
      >
        <Answer query={similar} isEmpty={(a) => a.products.length === 0}>
          {(a) => (
            <Table
              label="Similar products"
              rows={a.products}
              columns={SIMILAR_COLUMNS}
              pageSize={8}
              download={`similar-${stockCode}`}
            />
          )}
        </Answer>
      </Card>
    </>
  );
}
