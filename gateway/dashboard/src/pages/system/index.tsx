// The state of the gateway and its services.
import { Page } from "../../components/layout";
import { Gateway } from "./gateway";
import { Services } from "./services";

export default function System() {
  return (
    <Page
      title="System"
      lead="The state of every service, and the calls, latency, cache hits and errors of the gateway. Updated every ten seconds."
    >
      <div class="cards">
        <Services />
        <Gateway />
      </div>
    </Page>
  );
}
