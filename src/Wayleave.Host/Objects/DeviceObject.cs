using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;

namespace Wayleave.Host.Objects;

//   Writing --begin--> Committing --commit--> Ready --revoke--> Revoked
//      |                   |                                      ^
//      +-------------------+-----------abort / revoke-------------+
//
// A revoke without sufficient proof leads to Quarantined, until it retires after all.

public enum ObjectState
{
    /// <summary>Being filled; nobody finds it by its name yet.</summary>
    Writing,

    /// <summary>Nobody writes any more, and its content is being checked: only the commit itself gives it up.</summary>
    Committing,

    Ready,

    /// <summary>Taken back with proof; its memory may have a new owner.</summary>
    Revoked,

    /// <summary>Taken back without sufficient proof; its memory is held back.</summary>
    Quarantined,
}

/// <summary>
/// A named piece of device memory: what <c>wl://HOST/DEVICE/NAME</c> names. Changed under the host lock.
/// </summary>
public sealed class DeviceObject
{
    internal DeviceObject(
        ulong id, IObjectDevice owner, string name, ObjectMemory memory, DateTimeOffset createdAt)
    {
        Id = id;
        Owner = owner;
        Name = name;
        Memory = memory;
        CreatedAt = createdAt;
    }

    /// <summary>Unique in the host, never used again; names an object that has no name yet.</summary>
    public ulong Id { get; }

    /// <summary>The device that has the memory.</summary>
    public IObjectDevice Owner { get; }

    public string Device => Owner.Name;

    public string Name { get; }

    public ObjectMemory Memory { get; }

    /// <summary>What others attach to.</summary>
    public SharedBuffer Buffer => Memory.Shared;

    public ulong SizeBytes => Memory.SizeBytes;

    public StorageKind Storage => Memory.Storage;

    public ObjectPlace Placement => Memory.Place;

    public ObjectState State { get; internal set; }

    /// <summary>Evictions and restores so far.</summary>
    public int Moves { get; internal set; }

    public DateTimeOffset CreatedAt { get; }

    /// <summary>
    /// Of the content since the commit, lower-case hexadecimal; null when the writer did not say, or when the object
    /// was lent for writing since.
    /// </summary>
    public string? Sha256 { get; internal set; }

    /// <summary>The proof of the last revoke, or null.</summary>
    public RetirementProof? Proof { get; internal set; }

    /// <summary>The store is told when its memory leaves quarantine. Host lock held.</summary>
    internal bool IsReleaseAwaited { get; set; }

    /// <summary>DEVICE/NAME.</summary>
    public override string ToString() => $"{Device}/{Name}";
}
