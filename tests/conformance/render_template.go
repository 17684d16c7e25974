// Renders a Modelfile's template as Ollama does: JSON on stdin, text on stdout.
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type request struct {
	Template string
	Messages []struct{ Role, Content string }
}

func main() {
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	parsed := template.Must(template.New("").Parse(asked.Template))
	if err := parsed.Execute(os.Stdout, map[string]any{"Messages": asked.Messages}); err != nil {
		panic(err)
	}
}
