using Wayleave.Core;
using Wayleave.Core.AddressSpaces;

namespace Wayleave.Simulation;

/// <summary>Makes the steps of an operation on an address space those of an actor.</summary>
public static class OperationSteps
{
    /// <summary>
    /// Drives <paramref name="operation"/> to its end, one of its steps at a time, when it can go on. Host lock not
    /// held by the caller.
    /// </summary>
    public static IEnumerable<Step> Drive(this SpaceOperation operation, HostContext host)
    {
        ArgumentNullException.ThrowIfNull(operation);
        ArgumentNullException.ThrowIfNull(host);
        while (!operation.IsCompleted)
        {
            yield return new Step(operation.Next, () => operation.IsReady || operation.IsCompleted);
            using (host.Enter())
            {
                if (operation.IsReady)
                {
                    operation.Step();
                }
            }
        }
    }
}
