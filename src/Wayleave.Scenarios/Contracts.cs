using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// What the checker of a host has to say belongs to every scenario: an order of locks or a signalling section that is
/// wrong is found although no order of the steps went wrong.
/// </summary>
internal static class Contracts
{
    /// <summary>Throws for the first broken contract. Runs after every step, so it looks at a counter first.</summary>
    /// <param name="host">Whose.</param>
    /// <param name="expected">What the scenario is about, or brings about on purpose; null for nothing.</param>
    public static void Require(HostContext host, ViolationKind? expected = null)
    {
        if (host.Checker.ViolationCount == 0)
        {
            return;
        }

        foreach (Violation violation in host.Checker.Violations)
        {
            if (violation.Kind != expected)
            {
                throw new ViolationException($"{violation.Kind}: {violation}");
            }
        }
    }
}
