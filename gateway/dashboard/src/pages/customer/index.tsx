// One customer: profile, segment, churn risk, recommendations, orders.
import { TextFilter } from "../../components/inputs";
import { Card, Page } from "../../components/layout";
import { RISK_COLUMNS } from "../../components/risks";
import { Answer } from "../../components/states";
import { Table } from "../../components/table";
import { useRisks } from "../../data/queries";
import { filter } from "../../url";
import { Offers } from "./offers";
import { Orders } from "./orders";
import { Profile } from "./profile";
import { Risk } from "./risk";
import { Segment } from "./segment";

export default function CustomerPage() {
  const id = filter("id");
  return (
    <Page
      title={id ? `Customer ${id}` : "Customer"}
      lead="One customer's profile, segment, churn risk, recommended products and orders."
      filters={<TextFilter name="id" label="Customer" placeholder="Customer id" />}
    >
      <div class="cards">
        {id ? (
          <>
            <Profile id={id} />
            <Segment id={id} />
            <Risk id={id} />
            <Offers id={id} />
            <Orders id={id} />
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
      note="Type an id above, or choose one of the customers with most value at risk"
    >
      <Answer query={risks} isEmpty={(a) => a.items.length === 0}>
        {({ items }) => <Table label="Customers" rows={items} columns={RISK_COLUMNS} />}
      </Answer>
    </Card>
  );
}
