/** Entry point: styles, and the page. */

import "./ui/styles/index.css";
import { render } from "preact";
import { App } from "./ui/app";

const page = document.getElementById("page");
if (page) render(<App />, page);
