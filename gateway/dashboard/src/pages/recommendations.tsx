// What to put beside the till: for a customer, for a basket, beside a product.
import { X } from "lucide-preact";
import { skipToken, useCall } from "../api";
import { axis, Chart, tooltip } from "../chart";
import { ProductFilter } from "../filters";
import { count, decimal, enumWord, percent } from "../format";
import {
  ReasonKind,
  RecommendationService,
  type AssociationRule,
  type Recommendation,
  type SimilarProduct,
} from "../gen/shopkeeper/recommendation/v1/recommendation_pb";
import {
  Answer,
  Badge,
  Card,
  Choice,
  Empty,
  NumberFilter,
  Page,
  ProductLink,
  TextFilter,
} from "../parts";
import { useProductName } from "../shop";
import { Table, type Column } from "../table";
import { filter, numberFilter, setFilters } from "../url";

export default function Recommendations() {
  const by = filter("by", "customer");
  return (
    <Page
      title="Recommendations"
      lead="What somebody will probably buy next, what resembles a product, and what goes into the same order."
      filters={
        <>
          <Choice
            name="by"
            label="For"
            otherwise="customer"
            options={[
              ["customer", "A customer"],
              ["basket", "A basket"],
              ["product", "A product"],
            ]}
          />
          {by === "customer" && (
            <TextFilter name="customer" label="Customer" placeholder="Customer id" />
          )}
          {by === "basket" && (
            <ProductFilter name="add" label="Add to the basket" placeholder="Code or words" />
          )}
          {by === "product" ? (
            <>
              <ProductFilter name="product" label="Product" placeholder="Code or words" />
              <NumberFilter
                name="confidence"
                label="Confidence at least"
                otherwise={0}
                least={0}
                most={100}
                unit="%"
              />
              <NumberFilter name="lift" label="Lift at least" otherwise={0} least={0} most={1000} />
            </>
          ) : (
            <label class="check">
              <input
                type="checkbox"
                checked={filter("new") === "1"}
                onChange={(event) =>
                  setFilters({ new: event.currentTarget.checked ? "1" : undefined })
                }
              />
              New to them alone
            </label>
          )}
        </>
      }
    >
      <div class="cards">
        {by === "product" ? <ForProduct /> : by === "basket" ? <ForBasket /> : <ForCustomer />}
      </div>
    </Page>
  );
}

export const RECOMMENDATIONS: Column<Recommendation>[] = [
  { header: "Rank", value: (r) => r.rank, format: count },
  { header: "Product", value: (r) => r.stockCode, show: (r) => <ProductLink code={r.stockCode} /> },
  { header: "Description", value: (r) => r.description, wide: true },
  {
    header: "Why",
    value: (r) => r.reasonText,
    wide: true,
    show: (r) => (
      <>
        <Badge tone={r.reason === ReasonKind.BOUGHT_BEFORE ? "good" : "plain"}>
          {enumWord(ReasonKind[r.reason])}
        </Badge>{" "}
        {r.reasonText}
      </>
    ),
  },
  { header: "Score", value: (r) => r.score, format: (v) => decimal(v, 3) },
];

function ForCustomer() {
  const customerId = filter("customer");
  const answer = useCall(
    RecommendationService.method.recommendProducts,
    customerId ? { customerId, limit: 30, newOnly: filter("new") === "1" } : skipToken,
  );
  return (
    <Card title={customerId ? `For customer ${customerId}` : "For a customer"}>
      {customerId ? (
        <Answer of={answer} empty={(a) => a.recommendations.length === 0}>
          {(a) => (
            <Table
              label="Products for the customer"
              rows={a.recommendations}
              columns={RECOMMENDATIONS}
              download={`recommendations-${customerId}`}
            />
          )}
        </Answer>
      ) : (
        <Empty>Type a customer's id above.</Empty>
      )}
    </Card>
  );
}

const ProductName = ({ code }: { code: string }) => (
  <span class="grow">{useProductName(code)}</span>
);

function ForBasket() {
  const basket = filter("basket").split(",").filter(Boolean);
  const adding = filter("add").toUpperCase();
  const setBasket = (codes: string[]) => setFilters({ basket: codes.join(","), add: undefined });
  const answer = useCall(
    RecommendationService.method.recommendProducts,
    // The basket is answered while it is typed: a code that is being added counts already.
    basket.length || adding
      ? { basket: [...new Set([...basket, ...(adding ? [adding] : [])])], limit: 20 }
      : skipToken,
  );
  const unknown = answer.data?.unknownBasket ?? [];
  return (
    <>
      <Card
        title="Basket"
        span={4}
        actions={
          <button
            type="button"
            class="primary"
            disabled={!adding || basket.includes(adding)}
            onClick={() => setBasket([...basket, adding])}
          >
            Put {adding || "it"} in
          </button>
        }
      >
        {basket.length === 0 ? (
          <Empty>Nothing yet. Type a product above, and put it in.</Empty>
        ) : (
          <ul class="basket">
            {basket.map((code) => (
              <li key={code}>
                <ProductLink code={code} /> <ProductName code={code} />
                {unknown.includes(code) && <Badge tone="weak">Unknown to the model</Badge>}
                <button
                  type="button"
                  class="icon"
                  aria-label={`Take ${code} out`}
                  onClick={() => setBasket(basket.filter((c) => c !== code))}
                >
                  <X aria-hidden="true" />
                </button>
              </li>
            ))}
          </ul>
        )}
      </Card>
      <Card title="Goes with it" span={8}>
        {basket.length || adding ? (
          <Answer
            of={answer}
            empty={(a) =>
              a.recommendations.length === 0 ||
              a.unknownBasket.length === new Set([...basket, adding].filter(Boolean)).size
            }
            nothing="The model knows none of these products."
          >
            {(a) => (
              <Table
                label="Products for the basket"
                rows={a.recommendations}
                columns={RECOMMENDATIONS}
                download="basket"
              />
            )}
          </Answer>
        ) : (
          <Empty>What goes with a basket shows here as soon as something is in it.</Empty>
        )}
      </Card>
    </>
  );
}

const SIMILAR: Column<SimilarProduct>[] = [
  { header: "Product", value: (p) => p.stockCode, show: (p) => <ProductLink code={p.stockCode} /> },
  { header: "Description", value: (p) => p.description, wide: true },
  { header: "Similarity", value: (p) => p.similarity, format: decimal },
];
export const RULES: Column<AssociationRule>[] = [
  { header: "Product", value: (r) => r.stockCode, show: (r) => <ProductLink code={r.stockCode} /> },
  { header: "Description", value: (r) => r.description, wide: true },
  { header: "Support", value: (r) => r.support, format: (v) => percent(v, 2) },
  { header: "Confidence", value: (r) => r.confidence, format: percent },
  { header: "Lift", value: (r) => r.lift, format: (v) => decimal(v, 1) },
  { header: "Orders with both", value: (r) => Number(r.orders), format: count },
];

function ForProduct() {
  const stockCode = filter("product");
  const called = useProductName(stockCode) || stockCode;
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
        title={`In the same order as ${called}`}
        note="Lift 1: no connection. Higher: they belong together."
      >
        <Answer of={rules} empty={(a) => a.rules.length === 0}>
          {(a) => (
            <Table
              label="Bundles with the product"
              rows={a.rules}
              columns={RULES}
              download={`bundles-${stockCode}`}
            />
          )}
        </Answer>
      </Card>
      <Card
        title="Confidence against lift"
        note="One point a product; larger: more orders with both"
        span={6}
      >
        <Answer of={rules} empty={(a) => a.rules.length === 0}>
          {(a) => (
            <Chart
              label="Confidence against lift of the bundles"
              rows={a.rules}
              columns={RULES}
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
        title={`Like ${called}`}
        note="Bought by the same customers, not only in the same order"
        span={6}
      >
        <Answer of={similar} empty={(a) => a.products.length === 0}>
          {(a) => (
            <Table
              label="Similar products"
              rows={a.products}
              columns={SIMILAR}
              pageSize={8}
              download={`similar-${stockCode}`}
            />
          )}
        </Answer>
      </Card>
    </>
  );
}
