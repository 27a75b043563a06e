// Sales over time, by country, product and customer segment.
import { ClearFilters, CountryFilter, RangeFilter } from "../../components/filters";
import { Page } from "../../components/layout";
import { Cohorts } from "./cohorts";
import { Countries } from "./countries";
import { ExportButton } from "./export-button";
import { Growth } from "./growth";
import { Products } from "./products";
import { Segments } from "./segments";
import { Summary } from "./summary";
import { Trend } from "./trend";

export default function Overview() {
  return (
    <Page
      title="Overview"
      lead="Sales over time, by country, product and customer segment. Filters apply to every figure of this page and to the download."
      filters={
        <>
          <CountryFilter />
          <RangeFilter />
          <ClearFilters />
          <ExportButton />
        </>
      }
    >
      <div class="cards">
        <Summary />
        <Trend />
        <Countries />
        <Products />
        <Segments />
        <Growth />
        <Cohorts />
      </div>
    </Page>
  );
}
