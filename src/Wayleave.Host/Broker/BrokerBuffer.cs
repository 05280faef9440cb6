using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host.Objects;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// Device memory that programs share. It is alive while a program has a number for it or a copy of a descriptor is
/// left anywhere; the last one frees it, once. Changed under the host lock.
/// </summary>
internal sealed class BrokerBuffer(IObjectDevice device, ObjectMemory memory, BrokerProgram owner, ulong chargedBytes)
{
    public IObjectDevice Device { get; } = device;

    public ObjectMemory Memory { get; } = memory;

    public SharedBuffer Shared => Memory.Shared;

    /// <summary>As it was asked for.</summary>
    public ulong SizeBytes => Memory.SizeBytes;

    /// <summary>Pages that stay where the storage does; null for storage that nobody may map, or that moves.</summary>
    public SharedPages? FixedPages { get; init; }

    /// <summary>Pages of storage that moves: for those who stop when told.</summary>
    public FollowingPages? FollowingPages { get; init; }

    /// <summary>What is mapped now; null for storage that no program reaches.</summary>
    public SharedPages? Pages => FollowingPages is { } moving ? moving.Current : FixedPages;

    /// <summary>Whether the pages may be taken out from under who maps them, when the buffer is taken back.</summary>
    public bool IsWithdrawable { get; init; }

    /// <summary>Who allocated it, on whose account its bytes are.</summary>
    public BrokerProgram Owner { get; } = owner;

    /// <summary>On the account of its owner.</summary>
    public ulong ChargedBytes { get; } = chargedBytes;

    /// <summary>Programs that have a number for it, once per number.</summary>
    public List<BrokerProgram> Numbers { get; } = [];

    /// <summary>Descriptors of which a copy is left.</summary>
    public List<BrokerDescriptor> Descriptors { get; } = [];

    public List<BrokerMapping> Mappings { get; } = [];

    /// <summary>Registrations, bindings of engines and copies, which keep it as a number does.</summary>
    public int Uses { get; set; }

    public int References => Numbers.Count + Descriptors.Count + Uses;

    /// <summary>The revoke by which it was last asked for, or null.</summary>
    public RevokeOperation? Revoke { get; set; }

    /// <summary>Its bytes are on the account of its owner as quarantined.</summary>
    public bool IsQuarantined { get; set; }

    /// <summary>Its bytes are its device's again.</summary>
    public bool IsReturned { get; set; }
}

/// <summary>A program's mapping of a buffer's pages.</summary>
/// <param name="Mapping">Core's account of it.</param>
/// <param name="Buffer">Of which.</param>
/// <param name="Program">Whose.</param>
internal sealed record BrokerMapping(CpuMapping Mapping, BrokerBuffer Buffer, BrokerProgram Program)
{
    /// <summary>The program says that it has unmapped, or has closed its connection. That is no proof.</summary>
    public bool IsLetGo { get; set; }

    public bool IsPending => IsLetGo || Program.IsDead;
}
