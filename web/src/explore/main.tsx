import { render } from "preact";
import "../style/base.css";
import "./explore.css";
import "./maps.css";
import { apply } from "../theme";
import { App } from "./app";
import { page } from "./state";

apply();
render(<App found={page} />, document.getElementById("app")!);
