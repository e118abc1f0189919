import { render } from "preact";
import "./style/base.css";
import "./style/photos.css";
import "./style/model.css";
import { store } from "./store";
import { apply } from "./theme";
import { App } from "./views/app";

apply();
render(<App />, document.getElementById("app")!);
void store.start();
