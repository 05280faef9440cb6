namespace Wayleave.Core.Retirement;

/// <summary>What became of the fence by which an importer reports that its last access has ended.</summary>
public enum DrainState
{
    /// <summary>There was none: nobody was inside, or the importer was never told.</summary>
    None,

    /// <summary>The importer has not signalled it.</summary>
    Pending,

    /// <summary>Somebody else signalled it. No evidence, until the importer says it too.</summary>
    Forced,

    /// <summary>The importer itself said that the last access has ended.</summary>
    Ended,
}
