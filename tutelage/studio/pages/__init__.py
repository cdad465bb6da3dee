"""The studio's pages, a router each; `ROUTERS` is the whole site."""

from tutelage.studio.pages import batches, entry, loop, people, playground, prompts, screening, tasks, values

ROUTERS = (
    entry.router,
    tasks.router,
    prompts.router,
    batches.router,
    people.router,
    screening.router,
    loop.router,
    values.router,
    playground.router,
)
