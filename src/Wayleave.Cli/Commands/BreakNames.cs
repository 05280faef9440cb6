using System.CommandLine;
using Wayleave.Devices.Rdma;

namespace Wayleave.Cli.Commands;

/// <summary>
/// The defences that a hidden option of <c>demo</c> and <c>host</c> takes away, to show that their absence is noticed.
/// A check that cannot fail proves nothing.
/// </summary>
internal static class BreakNames
{
    /// <summary>The responder keeps the translation and the key that it saw first.</summary>
    private const string RevokeGate = "revoke-gate";

    /// <summary>The device hands the number of a dead key out again.</summary>
    private const string KeyReuse = "key-reuse";

    public static Option<string?> Option()
    {
        Option<string?> option = new("--break") { Hidden = true, HelpName = "NAME" };
        option.AcceptOnlyFromAmong(RevokeGate, KeyReuse);
        return option;
    }

    /// <summary>The defences left, or null for all of them.</summary>
    public static ResponderDefences? Of(string? name) => name switch
    {
        RevokeGate => ResponderDefences.BrokenRevokeGate,
        KeyReuse => ResponderDefences.BrokenKeyReuse,
        _ => null,
    };
}
