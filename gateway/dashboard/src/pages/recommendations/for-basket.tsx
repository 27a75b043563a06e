// Products for a basket that the reader composes.
import { X } from "lucide-preact";
import { Badge, Card, ProductLink } from "../../components/layout";
import { RECOMMENDATION_COLUMNS } from "../../components/recommendations";
import { Answer, Empty } from "../../components/states";
import { Table } from "../../components/table";
import { skipToken, useCall } from "../../data/api";
import { useProductName } from "../../data/queries";
import { RecommendationService } from "../../gen/shopkeeper/recommendation/v1/recommendation_pb";
import { filter, setFilters } from "../../url";

const ProductName = ({ code }: { code: string }) => (
  <span class="grow">{useProductName(code)}</span>
);

export function ForBasket() {
  const basket = filter("basket").split(",").filter(Boolean);
  const adding = filter("add").toUpperCase();
  const setBasket = (codes: string[]) => setFilters({ basket: codes.join(","), add: undefined });
  const answer = useCall(
    RecommendationService.method.recommendProducts,
    // Answers during typing: a code that is not yet added counts as part of the basket.
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
            Add {adding || "product"}
          </button>
        }
      >
        {basket.length === 0 ? (
          <Empty>The basket is empty. Type a product above and add it.</Empty>
        ) : (
          <ul class="basket">
            {basket.map((code) => (
              <li key={code}>
                <ProductLink code={code} /> <ProductName code={code} />
                {unknown.includes(code) && <Badge tone="weak">Unknown to the model</Badge>}
                <button
                  type="button"
                  class="icon"
                  aria-label={`Remove ${code}`}
                  onClick={() => setBasket(basket.filter((c) => c !== code))}
                >
                  <X aria-hidden="true" />
                </button>
              </li>
            ))}
          </ul>
        )}
      </Card>
      <Card title="Goes with the basket" span={8}>
        {basket.length || adding ? (
          <Answer
            query={answer}
            isEmpty={(a) =>
              a.recommendations.length === 0 ||
              a.unknownBasket.length === new Set([...basket, adding].filter(Boolean)).size
            }
            emptyText="The model knows none of these products."
          >
            {(a) => (
              <Table
                label="Products for the basket"
                rows={a.recommendations}
                columns={RECOMMENDATION_COLUMNS}
                download="basket"
              />
            )}
          </Answer>
        ) : (
          <Empty>Recommendations appear here as soon as the basket has a product.</Empty>
        )}
      </Card>
    </>
  );
}
