using System.CommandLine;
using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Commands;

/// <summary>
/// Which topology a command is about: that of a running host, of a configuration file, or of this machine. The answers
/// are the same documents.
/// </summary>
internal sealed class TopologySource
{
    private readonly Argument<WlUrl?> _url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
    private readonly Option<string?> _config =
        new("--config") { Description = "Not a running host: one that this file would make", HelpName = "F" };

    private readonly Option<bool> _live = new("--live") { Description = "Not a host: this machine, as Linux shows it" };
    private readonly Option<string> _root = new("--root")
    {
        Description = "With --live: the folder that holds sys and proc",
        HelpName = "DIR",
        DefaultValueFactory = _ => "/",
    };

    /// <summary>Adds the options; the URL comes behind the arguments that the command has.</summary>
    public void AddTo(Command command)
    {
        command.Add(_url);
        command.Add(_config);
        command.Add(_live);
        command.Add(_root);
        command.AddClientOptions();
    }

    public Task<TopologyDocument> GetTopologyAsync(ParseResult parsed, CancellationToken cancellation) => AskAsync(
        parsed, TopologyReports.Describe, client => client.GetTopologyAsync(cancellation));

    /// <summary>Every pair of devices; of a machine, of all its functions if asked for.</summary>
    public Task<RoutesDocument> GetRoutesAsync(ParseResult parsed, bool isAll, CancellationToken cancellation) =>
        AskAsync(
            parsed,
            view => RouteReports.ExplainAll(view, isAll ? AllFunctions(view) : view.Devices),
            client => client.GetRoutesAsync(cancellation));

    public Task<RouteDocument> GetRouteAsync(
        ParseResult parsed, string owner, string client, CancellationToken cancellation) => AskAsync(
        parsed,
        view => RouteReports.Explain(view, view.Find(owner), view.Find(client)),
        host => host.GetRouteAsync(owner, client, cancellation));

    private async Task<T> AskAsync<T>(
        ParseResult parsed, Func<TopologyView, T> describe, Func<ControlClient, Task<T>> ask)
    {
        string? config = parsed.GetValue(_config);
        bool isLive = parsed.GetValue(_live);
        if ((isLive && config is not null) || ((isLive || config is not null) && parsed.GetValue(_url) is not null))
        {
            throw new UsageException("one of a host's URL, --config and --live");
        }

        if (isLive)
        {
            return describe(TopologyView.OfMachine(parsed.GetValue(_root)!));
        }

        if (config is not null)
        {
            HostConfig loaded = ConfigurationLoader
                .Load(config, new Dictionary<string, string>(), Environment.GetEnvironmentVariable).Config;
            return describe(TopologyView.OfConfig(loaded, config));
        }

        using ControlClient client = parsed.OpenClient(parsed.GetValue(_url));
        return await ask(client).ConfigureAwait(false);
    }

    private static IReadOnlyList<PciFunction> AllFunctions(TopologyView view) =>
        [.. view.Topology.Functions.Where(f => f is not PciBridge).OrderBy(f => f.Address)];
}
