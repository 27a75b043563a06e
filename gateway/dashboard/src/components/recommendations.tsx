// Recommended products in tables.
import { count, decimal, enumLabel } from "../format";
import {
  ReasonKind,
  type Recommendation,
} from "../gen/shopkeeper/recommendation/v1/recommendation_pb";
import { Badge, ProductLink } from "./layout";
import type { Column } from "./table";

export const RECOMMENDATION_COLUMNS: Column<Recommendation>[] = [
  { header: "Rank", value: (r) => r.rank, format: count },
  {
    header: "Product",
    value: (r) => r.stockCode,
    render: (r) => <ProductLink code={r.stockCode} />,
  },
  { header: "Description", value: (r) => r.description, wide: true },
  {
    header: "Why",
    value: (r) => r.reasonText,
    wide: true,
    render: (r) => (
      <>
        <Badge tone={r.reason === ReasonKind.BOUGHT_BEFORE ? "good" : "plain"}>
          {enumLabel(ReasonKind[r.reason])}
        </Badge>{" "}
        {r.reasonText}
      </>
    ),
  },
  { header: "Score", value: (r) => r.score, format: (v) => decimal(v, 3) },
];
